"""The header of a generation, and the checksum at its end: what is told without reading a row."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from shared.host.document_fields import Count
from shared.host.documents import Document, load
from shared.host.errors import DatabaseDamagedError
from shared.nas.reading import LIMIT_BYTES

#: How those lines of a header begin that differ from commit to commit, or may.
_HEADER_LINES: Final = (b"repository ", b"previous ", b"commit ")
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
class Commit(Document):
    """What a header says as one JSON object."""

    session: str
    sequence: Count
    node: str
    committed: str
    reason: str


def header_lines(header: Header) -> list[str]:
    """How a header is written, below the line that names the format."""
    commit = {item.name: getattr(header, item.name) for item in fields(Commit)}
    return [
        f"repository {header.repository}",
        f"generation {header.generation}",
        f"previous {header.previous}",
        f"commit {dump(commit)}",
    ]


def decode_header(data: bytes, number: int) -> tuple[Header, str]:
    """The header of generation `number` and its checksum, which is compared; no row is read.

    Raises `DatabaseDamagedError`.
    """
    body, checksum = checked(data, number)
    try:
        lines = iter(body.split(b"\n", 5)[1:5])
        header = read_header(line.decode("utf-8", "surrogatepass") for line in lines)
    except (ValueError, StopIteration, RuntimeError) as error:
        raise damaged(number, f"it cannot be read ({type(error).__name__}: {error})") from None
    if header.generation != number:
        raise damaged(number, f"it says that it is generation {header.generation}")
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


def read_header(lines: Iterator[str]) -> Header:
    """Take the header from the lines below the one that names the format.

    Raises ValueError or StopIteration if it is none.
    """
    repository, generation, previous = (
        next_value(lines, name) for name in ("repository", "generation", "previous")
    )
    return _header(repository, int(generation), previous, next_value(lines, "commit"))


def _header(repository: str, number: int, previous: str, commit: str | bytes) -> Header:
    found = Commit.from_json(load(commit, LIMIT_BYTES))
    said = {item.name: getattr(found, item.name) for item in fields(found)}
    return Header(repository, number, previous, **said)


def next_value(lines: Iterator[str], name: str) -> str:
    """Take the next line, which begins with `name`, and return what follows. Raises ValueError."""
    found, _, value = next(lines).partition(" ")
    if found != name:
        raise ValueError(f"{name!r} expected, {found[:40]!r} found")
    return value


def checked(data: bytes, number: int) -> tuple[bytes, str]:
    """What stands above the checksum of a generation, and the checksum, which it agrees with."""
    body, separator, trailer = data.rpartition(b"sha256 ")
    checksum = hashlib.sha256(body).hexdigest()
    if not separator or trailer != f"{checksum}\n".encode():
        raise damaged(number, f"its checksum is wrong ({len(data)} bytes)")
    return body, checksum


def dump(document: Mapping[str, Any]) -> str:
    """One line of JSON, always the same for the same values."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def damaged(number: int, what: str) -> DatabaseDamagedError:
    """The error for a generation that is not what was written."""
    return DatabaseDamagedError(
        f"generation {number} of the state database is damaged: {what}",
        hint=(
            "`vmbackup-admin statedb check` shows what is left and how to go on; nothing has "
            "been changed"
        ),
    )
