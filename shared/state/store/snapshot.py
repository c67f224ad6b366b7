"""How one generation of the state database is written as text.

A generation is complete, immutable and self-checking: a header (who committed it, why, and the
checksum of the generation before), one JSON object a line for each node, session and VM, and the
SHA-256 of everything above.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from shared.host import documents
from shared.host.documents import Document, load
from shared.host.errors import DatabaseDamagedError, VmBackupError
from shared.nas.reading import LIMIT_BYTES
from shared.state import formats
from shared.state.contents import Contents, UnusableRow
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import VmRecord
from shared.state.store.header import (
    Commit,
    Header,
    checked,
    damaged,
    dump,
    header_lines,
    next_value,
    read_header,
)

R = TypeVar("R", bound=Document)
Section = Literal["nodes", "sessions", "vms"]

_SECTIONS: Final[tuple[Section, ...]] = ("nodes", "sessions", "vms")
#: More lists and objects than the records of a longest generation have. Each takes far more memory
#: than its brackets, and whoever may write to the NAS can seal what consists of them.
_MOST_PARTS: Final = 1_000_000
#: The fields that name the rows of each section.
_NAMES: Final[Mapping[Section, str]] = {"nodes": "name", "sessions": "id", "vms": "key"}


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


def prepare() -> None:
    """See `shared.host.documents.prepare`: here for what stands in a generation."""
    documents.prepare(Commit, NodeRecord, SessionRecord, VmRecord)


def encode(header: Header, contents: Contents) -> bytes:
    """The text of a generation, in the format of its contents. Same input, same bytes.

    Raises `VmBackupError` if it is more than anybody reads: nobody could commit on it.
    """
    lines = [
        f"{formats.MAGIC} {contents.format}",
        *header_lines(header),
        f"claims {contents.claims_granted}",
    ]
    for section in _SECTIONS:
        records: Mapping[str, Document] = getattr(contents, section)
        rows = [(name, dump(record.to_json())) for name, record in records.items()]
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
        raise damaged(number, reason)
    try:
        return _decode(data, number)
    except DatabaseDamagedError:
        if (
            version := formats.named(data.partition(b"\n")[0].decode("utf-8", "replace"))
        ) and formats.is_newer(version):
            raise formats.too_new(version) from None
        raise


def _too_much(data: bytes) -> str:
    """Why so much is not read, with the bound; empty: it is."""
    if len(data) > LIMIT_BYTES:
        return f"it is longer than {LIMIT_BYTES} bytes"
    if data.count(b"[") + data.count(b"{") > _MOST_PARTS:
        return f"it has more than {_MOST_PARTS} lists and objects"
    return ""


def _decode(data: bytes, number: int) -> Snapshot:
    body, checksum = checked(data, number)
    try:
        lines = iter(body.decode("utf-8", "surrogatepass").split("\n"))
        version = _known_format(next(lines))
        header = read_header(lines)
        if header.generation != number:
            raise damaged(number, f"it says that it is generation {header.generation}")
        granted = int(next_value(lines, "claims"))
        unusable: list[UnusableRow] = []
        nodes = _rows(lines, "nodes", NodeRecord, unusable)
        sessions = _rows(lines, "sessions", SessionRecord, unusable)
        vms = _rows(lines, "vms", VmRecord, unusable)
        if next(lines) != "end":
            raise damaged(number, "its end is missing")
    except (ValueError, StopIteration) as error:
        raise damaged(number, f"it cannot be read ({type(error).__name__}: {error})") from None
    contents = Contents(granted, nodes, sessions, vms, version, tuple(unusable))
    return Snapshot(header, contents, checksum)


def _known_format(line: str) -> str:
    version = formats.named(line)
    if version is None or formats.major(version) < formats.major(formats.FIRST):
        raise ValueError(f"starts with {line[:40]!r}")
    return version


def _rows(
    lines: Iterator[str], section: Section, kind: type[R], unusable: list[UnusableRow]
) -> dict[str, R]:
    """The records of a section by name. Rows that are none are added to `unusable`.

    A row may be as long as a generation: what was committed must be read again.
    """
    rows: dict[str, R] = {}
    for _ in range(int(next_value(lines, section))):
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
