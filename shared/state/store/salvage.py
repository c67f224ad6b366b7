"""What can still be read of a state database that cannot be used any more.

For `vmbackup-admin statedb rebuild`: which database it was, the numbers that it had come to, and
rows of VMs. Lines are read one by one, so a generation that was cut off or damaged in one place
tells most of what it said. Nothing is decided by such a row; people are told of it. Reads only.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.host.documents import load
from shared.host.errors import DatabaseDamagedError, DatabaseVersionError
from shared.nas.reading import LIMIT_BYTES, list_fresh, read_file
from shared.state import formats
from shared.state.numbers import believable
from shared.state.records import VmRecord
from shared.state.store.layout import generation_file, generation_name, generation_numbers
from shared.state.store.snapshot import decode
from shared.state.store.version import format_of

#: How many files of generations are read: what is older tells nothing that matters.
_TRIES: Final = 32
_VERSION_BYTES: Final = 1 << 16
_NAMED: Final = re.compile(r"([0-9]{20})(\.[0-9a-f]+)?")
_REPOSITORY: Final = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_IN_VERSION: Final = re.compile(rf"^REPOSITORY:\s*{_REPOSITORY}\s*$", re.MULTILINE)
_LEASE: Final = re.compile(r"^LEASE_SECONDS:\s*([0-9.]{1,12})\s*$", re.MULTILINE)
_IN_GENERATION: Final = re.compile(rf"^repository {_REPOSITORY}$", re.MULTILINE)
_NUMBER: Final = re.compile(r"^generation ([0-9]{1,18})$", re.MULTILINE)
_CLAIMS: Final = re.compile(r"^claims ([0-9]{1,18})$", re.MULTILINE)
_COMMITTED: Final = re.compile(r'^commit \{.*"committed":"([0-9TZ:-]{1,30})"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Salvage:
    """What was found. Empty, 0 or None: that cannot be told.

    `generation` and `claims` are the highest numbers. `vms` are rows by UUID, each the newest of
    those that can be read; `committed` is when the newest of them was written, at generation
    `row_generation`.
    """

    repository: str = ""
    format: str = ""
    lease_seconds: float = 0.0
    generation: int = 0
    claims: int = 0
    committed: str = ""
    row_generation: int = 0
    vms: Mapping[str, VmRecord] = field(default_factory=dict)


def salvage(root: Path) -> Salvage:
    """Reads what is left of the database in `root`; one that is not there says nothing."""
    version = _text(root / "vmtool-db-version", _VERSION_BYTES)
    generations = _generations(root)
    texts = [(number, text) for number, path in generations[:_TRIES] if (text := _text(path))]
    numbers = [number for number, _ in generations]
    numbers += [int(found) for _, text in texts for found in _NUMBER.findall(text)[:1]]
    vms = _rows(texts)
    row_generation = next((number for number, text in texts if any(_records(text))), 0)
    claims = [int(found) for _, text in texts for found in _CLAIMS.findall(text)[:1]]
    claims += [record.claim.number for record in vms.values() if record.claim]
    return Salvage(
        _first(_IN_VERSION, [version]) or _first(_IN_GENERATION, (text for _, text in texts)),
        _format(version, [text for _, text in texts]),
        _lease(version),
        max((number for number in numbers if believable(number)), default=0),
        max((number for number in claims if believable(number)), default=0),
        next((_first(_COMMITTED, [text]) for n, text in texts if n == row_generation), ""),
        row_generation,
        vms,
    )


def highest_generation(root: Path) -> int:
    """The highest number in the names of generations, by listings alone; 0 if there is none."""
    return max((number for number, _ in _generations(root) if believable(number)), default=0)


def _generations(root: Path) -> list[tuple[int, Path]]:
    """All generations, also those that were set aside as damaged: the newest first."""
    found = [
        (number, generation_file(directory / generation_name(number)))
        for directory in (root / "gen", *_buckets(root))
        for number in generation_numbers(_names(directory))
    ]
    found += [
        (int(match[1]), generation_file(root / "damaged" / name))
        for name in _names(root / "damaged")
        if (match := _NAMED.fullmatch(name))
    ]
    return sorted(found, reverse=True)


def _buckets(root: Path) -> list[Path]:
    return [root / "history" / name for name in _names(root / "history") if name.isdigit()]


def _names(directory: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return list_fresh(directory)
    return []


def _text(path: Path, limit: int = LIMIT_BYTES) -> str:
    with contextlib.suppress(OSError):
        return read_file(path, limit).decode("utf-8", "surrogateescape")
    return ""


def _rows(texts: Iterable[tuple[int, str]]) -> dict[str, VmRecord]:
    """The newest rows of VMs. What is older than a whole generation adds nothing to it."""
    rows: dict[str, VmRecord] = {}
    for number, text in texts:
        for record in _records(text):
            rows.setdefault(record.uuid.lower(), record)
        if _is_whole(number, text):
            break
    return rows


def _records(text: str) -> Iterator[VmRecord]:
    for line in text.split("\n"):
        if line.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                record = VmRecord.from_json(load(line, LIMIT_BYTES))
                if record.uuid:
                    yield record


def _is_whole(number: int, text: str) -> bool:
    try:
        decode(text.encode("utf-8", "surrogateescape"), number)
    except (DatabaseDamagedError, DatabaseVersionError):
        return False
    return True


def _first(pattern: re.Pattern[str], texts: Iterable[str]) -> str:
    return next((match[1] for text in texts if (match := pattern.search(text))), "")


def _format(version: str, texts: Iterable[str]) -> str:
    """The newest known format that is named: in the version file or in a generation."""
    named = [formats.named(text.partition("\n")[0]) for text in texts]
    named.append(format_of(version.encode("utf-8", "surrogateescape")))
    known = [found for found in named if found and not formats.is_newer(found)]
    return max((found for found in known if found != "1.0"), key=formats.major, default="")


def _lease(version: str) -> float:
    found = _LEASE.search(version)
    with contextlib.suppress(ValueError):
        seconds = float(found[1]) if found else 0.0
        return seconds if 0 < seconds < 1e6 else 0.0
    return 0.0
