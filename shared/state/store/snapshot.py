"""How one generation of the state database is written as text.

A generation is complete, immutable and self-checking: a header (who committed it, why, and the
checksum of the generation before), one JSON object a line for each node, session and VM, and the
SHA-256 of everything above.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeVar

from shared.host.document_fields import Count
from shared.host.documents import Document, load
from shared.host.errors import DatabaseDamagedError, VmBackupError
from shared.nas.reading import LIMIT_BYTES
from shared.state import formats
from shared.state.contents import Contents, UnusableRow
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import VmRecord

R = TypeVar("R", bound=Document)
Section = Literal["nodes", "sessions", "vms"]

_SECTIONS: Final[tuple[Section, ...]] = ("nodes", "sessions", "vms")
#: More lists and objects than the records of a longest generation have. Each takes far more memory
#: than its brackets, and whoever may write to the NAS can seal what consists of them.
_MOST_PARTS: Final = 1_000_000
#: How those lines of a header begin that differ from commit to commit, or may.
_HEADER_LINES: Final = (b"repository ", b"previous ", b"commit ")
#: The fields that name the rows of each section.
_NAMES: Final[Mapping[Section, str]] = {"nodes": "name", "sessions": "id", "vms": "key"}
#: In place of the checksum of a generation before the first one.
NO_PREVIOUS: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Header:
    """Where a generation stands in the chain, who committed it and why."""

    repository: str
    generation: int
    #: Checksum of the generation before; 64 zeros for the first.
    previous: str
    session: str
    sequence: int
    node: str
    committed: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Commit(Document):
    """What a header says as one JSON object."""

    session: str
    sequence: Count
    node: str
    committed: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One generation."""

    header: Header
    contents: Contents
    checksum: str

    @property
    def generation(self) -> int:
        """Its number."""
        return self.header.generation


def encode(header: Header, contents: Contents) -> bytes:
    """The text of a generation, in the format of its contents. Same input, same bytes.

    Raises `VmBackupError` if it is more than anybody reads: nobody could commit on it.
    """
    lines = [
        f"{formats.MAGIC} {contents.format}",
        f"repository {header.repository}",
        f"generation {header.generation}",
        f"previous {header.previous}",
        "commit " + _dump({item.name: getattr(header, item.name) for item in fields(_Commit)}),
        f"claims {contents.claims_granted}",
    ]
    for section in _SECTIONS:
        records: Mapping[str, Document] = getattr(contents, section)
        rows = [(name, _dump(record.to_json())) for name, record in records.items()]
        rows += [(row.key, row.line) for row in contents.unusable if row.section == section]
        lines.append(f"{section} {len(rows)}")
        lines += [line for _, line in sorted(rows)]
    body = "\n".join([*lines, "end"]) + "\n"
    data = body.encode("utf-8", "surrogatepass")
    data += f"sha256 {hashlib.sha256(data).hexdigest()}\n".encode()
    if reason := _too_much(data):
        raise VmBackupError(
            f"nothing can be committed any more: the state database would have "
            f"{len(contents.vms)} VMs in {len(data)} bytes, and {reason}",
            hint="`vmbackup-admin forget` those that are gone; some hosts may use another NAS "
            "directory, which has a state database of its own",
        )
    return data


#: A commit reads the head, its own generation and the one before, each more than once.
@functools.lru_cache(maxsize=3)
def decode(data: bytes, number: int) -> Snapshot:
    """Reads generation `number`. The last few are remembered, by their number and all their bytes.

    Raises `DatabaseDamagedError`, or `DatabaseVersionError` if a newer program wrote it in other
    lines.
    """
    if reason := _too_much(data):
        raise _damaged(number, reason)
    try:
        return _decode(data, number)
    except DatabaseDamagedError:
        if (
            version := formats.named(data.partition(b"\n")[0].decode("utf-8", "replace"))
        ) and formats.is_newer(version):
            raise formats.too_new(version) from None
        raise


def decode_header(data: bytes, number: int) -> tuple[Header, str]:
    """The header of generation `number` and its checksum, which is compared; no row is read.

    Raises `DatabaseDamagedError`.
    """
    body, checksum = _checked(data, number)
    try:
        lines = iter(body.split(b"\n", 5)[1:5])
        header = _decode_header(line.decode("utf-8", "surrogatepass") for line in lines)
    except (ValueError, StopIteration, RuntimeError) as error:
        raise _damaged(number, f"it cannot be read ({type(error).__name__}: {error})") from None
    if header.generation != number:
        raise _damaged(number, f"it says that it is generation {header.generation}")
    return header, checksum


def header_among(lines: Iterable[bytes], repository: str, number: int) -> Header | None:
    """The header of a generation of which only some lines are known, those that are new in it.

    None if they do not say enough. `repository` is what it is if they do not say that.
    """
    said = dict(line.split(b" ", 1) for line in lines if line.startswith(_HEADER_LINES))
    with contextlib.suppress(ValueError, KeyError):
        known = said.get(b"repository", repository.encode()).decode()
        return _header(known, number, said[b"previous"].decode(), said[b"commit"])
    return None


def _too_much(data: bytes) -> str:
    """Why so much is not read, with the bound; empty: it is."""
    if len(data) > LIMIT_BYTES:
        return f"it is longer than {LIMIT_BYTES} bytes"
    if data.count(b"[") + data.count(b"{") > _MOST_PARTS:
        return f"it has more than {_MOST_PARTS} lists and objects"
    return ""


def _checked(data: bytes, number: int) -> tuple[bytes, str]:
    """What stands above the checksum of a generation, and the checksum, which it agrees with."""
    body, separator, trailer = data.rpartition(b"sha256 ")
    checksum = hashlib.sha256(body).hexdigest()
    if not separator or trailer != f"{checksum}\n".encode():
        raise _damaged(number, f"its checksum is wrong ({len(data)} bytes)")
    return body, checksum


def _decode(data: bytes, number: int) -> Snapshot:
    body, checksum = _checked(data, number)
    try:
        lines = iter(body.decode("utf-8", "surrogatepass").split("\n"))
        version = _known_format(next(lines))
        header = _decode_header(lines)
        if header.generation != number:
            raise _damaged(number, f"it says that it is generation {header.generation}")
        granted = int(_value(lines, "claims"))
        unusable: list[UnusableRow] = []
        nodes = _rows(lines, "nodes", NodeRecord, unusable)
        sessions = _rows(lines, "sessions", SessionRecord, unusable)
        vms = _rows(lines, "vms", VmRecord, unusable)
        if next(lines) != "end":
            raise _damaged(number, "its end is missing")
    except (ValueError, StopIteration) as error:
        raise _damaged(number, f"it cannot be read ({type(error).__name__}: {error})") from None
    contents = Contents(granted, nodes, sessions, vms, version, tuple(unusable))
    return Snapshot(header, contents, checksum)


def _known_format(line: str) -> str:
    version = formats.named(line)
    if version is None or formats.major(version) < formats.major(formats.FIRST):
        raise ValueError(f"starts with {line[:40]!r}")
    return version


def _decode_header(lines: Iterator[str]) -> Header:
    repository, generation, previous = (
        _value(lines, name) for name in ("repository", "generation", "previous")
    )
    return _header(repository, int(generation), previous, _value(lines, "commit"))


def _header(repository: str, number: int, previous: str, commit: str | bytes) -> Header:
    found = _Commit.from_json(load(commit, LIMIT_BYTES))
    said = {item.name: getattr(found, item.name) for item in fields(found)}
    return Header(repository, number, previous, **said)


def _value(lines: Iterator[str], name: str) -> str:
    found, _, value = next(lines).partition(" ")
    if found != name:
        raise ValueError(f"{name!r} expected, {found[:40]!r} found")
    return value


def _rows(
    lines: Iterator[str], section: Section, kind: type[R], unusable: list[UnusableRow]
) -> dict[str, R]:
    """The records of a section by name. Rows that are none are added to `unusable`.

    A row may be as long as a generation: what was committed must be read again.
    """
    rows: dict[str, R] = {}
    for _ in range(int(_value(lines, section))):
        line = next(lines)
        try:
            record = kind.from_json(load(line, LIMIT_BYTES))
            name = getattr(record, _NAMES[section])
            if name in rows:
                raise ValueError("there are two of this name")
            rows[name] = record
        except ValueError as error:
            unusable.append(_unusable(section, line, str(error)))
    return rows


def _unusable(section: Section, line: str, why: str) -> UnusableRow:
    document = None
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(line)
    said = document if isinstance(document, dict) else {}
    key, uuid, directory = (
        value if isinstance(value := said.get(name), str) else ""
        for name in (_NAMES[section], "uuid", "directory")
    )
    return UnusableRow(section, key, line, why, uuid, directory)


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _damaged(number: int, what: str) -> DatabaseDamagedError:
    return DatabaseDamagedError(
        f"generation {number} of the state database is damaged: {what}",
        hint=(
            "`vmbackup-admin statedb check` shows what is left and how to go on; nothing has "
            "been changed"
        ),
    )
