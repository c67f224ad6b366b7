"""How one generation of the state database is written as text.

A generation is complete, immutable and self-checking: a header (who committed it, why, and the
checksum of the generation before), one JSON object a line for each node, session and VM, and the
SHA-256 of everything above.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeVar

from shared.host.document_fields import Count
from shared.host.documents import Document, load
from shared.host.errors import DatabaseDamagedError
from shared.nas.reading import LIMIT_BYTES
from shared.state import formats
from shared.state.contents import Contents, UnusableRow
from shared.state.records import NodeRecord, SessionRecord, VmRecord

R = TypeVar("R", bound=Document)
Section = Literal["nodes", "sessions", "vms"]

_SECTIONS: Final[tuple[Section, ...]] = ("nodes", "sessions", "vms")
#: The fields that name the rows of each section.
_NAMES: Final[Mapping[Section, str]] = {"nodes": "name", "sessions": "id", "vms": "key"}


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
    """The text of a generation, in the format of its contents. Same input, same bytes."""
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
    return data + f"sha256 {hashlib.sha256(data).hexdigest()}\n".encode()


def decode(data: bytes, number: int) -> Snapshot:
    """Reads generation `number`.

    Raises `DatabaseDamagedError`, or `DatabaseVersionError` if a newer program wrote it in other
    lines.
    """
    if len(data) > LIMIT_BYTES:
        raise _damaged(number, f"it is longer than {LIMIT_BYTES} bytes")
    try:
        return _decode(data, number)
    except DatabaseDamagedError:
        if (
            version := formats.named(data.partition(b"\n")[0].decode("utf-8", "replace"))
        ) and formats.is_newer(version):
            raise formats.too_new(version) from None
        raise


def _decode(data: bytes, number: int) -> Snapshot:
    body, separator, trailer = data.rpartition(b"sha256 ")
    checksum = hashlib.sha256(body).hexdigest()
    if not separator or trailer != f"{checksum}\n".encode():
        raise _damaged(number, f"its checksum is wrong ({len(data)} bytes)")
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
    commit = _Commit.from_json(load(_value(lines, "commit"), LIMIT_BYTES))
    said = {item.name: getattr(commit, item.name) for item in fields(commit)}
    return Header(repository, int(generation), previous, **said)


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
