"""How one generation of the state database is written as text.

A generation is complete, immutable and self-checking: a header (who committed it, why, and the
checksum of the generation before), one JSON object a line for each node, session and VM, and the
SHA-256 of everything above.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.host.errors import DatabaseDamagedError
from shared.state import formats
from shared.state.records import Contents, NodeRecord, SessionRecord, VmRecord

_SECTIONS: Final = ("nodes", "sessions", "vms")


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
    """The text of a generation, in the format of its contents. The same input gives the same bytes."""
    lines = [
        f"{formats.MAGIC} {contents.format}",
        f"repository {header.repository}",
        f"generation {header.generation}",
        f"previous {header.previous}",
        "commit "
        + _dump(
            {
                name: getattr(header, name)
                for name in ("session", "sequence", "node", "committed", "reason")
            }
        ),
        f"claims {contents.claims_granted}",
    ]
    for section in _SECTIONS:
        rows = getattr(contents, section)
        lines.append(f"{section} {len(rows)}")
        lines += [_dump(rows[name].to_json()) for name in sorted(rows)]
    body = "\n".join([*lines, "end"]) + "\n"
    data = body.encode("utf-8", "surrogatepass")
    return data + f"sha256 {hashlib.sha256(data).hexdigest()}\n".encode()


def decode(data: bytes, number: int) -> Snapshot:
    """Reads generation `number`.

    Raises `DatabaseDamagedError`, or `DatabaseVersionError` if a newer program wrote it in other
    lines.
    """
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
        nodes = {row["name"]: NodeRecord.from_json(row) for row in _rows(lines, "nodes")}
        sessions = {row["id"]: SessionRecord.from_json(row) for row in _rows(lines, "sessions")}
        vms = {row["key"]: VmRecord.from_json(row) for row in _rows(lines, "vms")}
        if next(lines) != "end":
            raise _damaged(number, "its end is missing")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        StopIteration,
        RecursionError,
    ) as error:
        raise _damaged(number, f"it cannot be read ({type(error).__name__}: {error})") from None
    return Snapshot(header, Contents(granted, nodes, sessions, vms, version), checksum)


def _known_format(line: str) -> str:
    version = formats.named(line)
    if version is None or formats.major(version) < formats.major(formats.FIRST):
        raise ValueError(f"starts with {line[:40]!r}")
    return version


def _decode_header(lines: Iterator[str]) -> Header:
    repository, generation, previous = (
        _value(lines, name) for name in ("repository", "generation", "previous")
    )
    commit = json.loads(_value(lines, "commit"))
    names = ("session", "sequence", "node", "committed", "reason")
    return Header(repository, int(generation), previous, *(commit[name] for name in names))


def _value(lines: Iterator[str], name: str) -> str:
    found, _, value = next(lines).partition(" ")
    if found != name:
        raise ValueError(f"{name!r} expected, {found[:40]!r} found")
    return value


def _rows(lines: Iterator[str], section: str) -> list[dict[str, Any]]:
    return [json.loads(next(lines)) for _ in range(int(_value(lines, section)))]


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
