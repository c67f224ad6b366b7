"""What can still be read of a state database that cannot be used any more.

For `vmbackup-admin statedb rebuild`: which database it was, the numbers that it had come to, and
rows of VMs. Lines are read one by one, so a generation that was cut off or damaged in one place
tells most of what it said. Nothing is decided by such a row; people are told of it. Reads only.
"""

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.host.documents import load
from shared.host.errors import DatabaseDamagedError, DatabaseVersionError, NasError
from shared.nas.reading import LIMIT_BYTES, open_file, read_bounded
from shared.state import formats
from shared.state.numbers import believable
from shared.state.records import VmRecord
from shared.state.store.kept_generations import bundles_in, read_bundle
from shared.state.store.layout import (
    generation_file,
    generation_name,
    generation_numbers,
    history_buckets,
    names_in,
)
from shared.state.store.snapshot import decode
from shared.state.store.version import format_of, lease_in

#: How many files of generations are read: what is older tells nothing that matters.
_TRIES: Final = 32
_VERSION_BYTES: Final = 1 << 16
_NAMED: Final = re.compile(r"([0-9]{20})(\.[0-9a-f]+)?")
_REPOSITORY: Final = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_IN_VERSION: Final = re.compile(rf"^REPOSITORY:\s*{_REPOSITORY}\s*$", re.MULTILINE)
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
    read = _Read()
    for number, path in generations[:_TRIES]:
        read.add(number, _text(path))  # one at a time: all of them may be long
    for number, text in _in_bundles(root) if len(generations) < _TRIES else ():
        read.add(number, text)
    numbers = [number for number, _ in generations] + read.numbers + _bundled(root)
    claims = read.claims + [record.claim.number for record in read.vms.values() if record.claim]
    return Salvage(
        _first(_IN_VERSION, version) or read.repository,
        _format([*read.formats, format_of(version.encode("utf-8", "surrogateescape"))]),
        lease_in(version),
        max((number for number in numbers if believable(number)), default=0),
        max((number for number in claims if believable(number)), default=0),
        read.committed,
        read.row_generation,
        read.vms,
    )


@dataclass(slots=True)
class _Read:
    """What the texts of generations say, the newest first.

    What is older than a whole generation adds no rows to it.
    """

    repository: str = ""
    committed: str = ""
    row_generation: int = 0
    whole: bool = False
    formats: list[str | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    claims: list[int] = field(default_factory=list)
    vms: dict[str, VmRecord] = field(default_factory=dict)

    def add(self, number: int, text: str) -> None:
        """One more. An empty text says nothing."""
        if not text:
            return
        self.repository = self.repository or _first(_IN_GENERATION, text)
        self.formats.append(formats.named(text.partition("\n")[0]))
        for pattern, found in ((_NUMBER, self.numbers), (_CLAIMS, self.claims)):
            if said := _first(pattern, text):
                found.append(int(said))
        if self.whole:
            return
        for record in _records(text):
            self.vms.setdefault(record.uuid.lower(), record)
            if not self.row_generation:
                self.row_generation, self.committed = number, _first(_COMMITTED, text)
        self.whole = _is_whole(number, text)


def highest_generation(root: Path) -> int:
    """The highest number in the names of generations, by listings alone; 0 if there is none."""
    numbers = [*(number for number, _ in _generations(root)), *_bundled(root)]
    return max((number for number in numbers if believable(number)), default=0)


def _generations(root: Path) -> list[tuple[int, Path]]:
    """All generations, also those that were set aside as damaged: the newest first."""
    found = [
        (number, generation_file(directory / generation_name(number)))
        for directory in (root / "gen", *_buckets(root))
        for number in generation_numbers(names_in(directory))
    ]
    found += [
        (int(match[1]), generation_file(root / "damaged" / name))
        for name in names_in(root / "damaged")
        if (match := _NAMED.fullmatch(name))
    ]
    return sorted(found, reverse=True)


def _in_bundles(root: Path) -> Iterator[tuple[int, str]]:
    """The newest generations of the newest bundle that can be read, the newest first."""
    for name in reversed(bundles_in(root)):
        with contextlib.suppress(DatabaseDamagedError, NasError):
            found = deque(read_bundle(root, name).generations(), maxlen=_TRIES)
            for number, data in reversed(found):
                yield number, data.decode("utf-8", "surrogateescape")
            return


def _bundled(root: Path) -> list[int]:
    return [name.last for name in bundles_in(root)]


def _buckets(root: Path) -> list[Path]:
    return [root / "history" / name for name in history_buckets(names_in(root / "history"))]


def _text(path: Path, limit: int = LIMIT_BYTES) -> str:
    with contextlib.suppress(OSError), open_file(path) as file:
        if os.fstat(file.fileno()).st_size <= limit:
            return read_bounded(file, limit).decode("utf-8", "surrogateescape")
    return ""


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


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""


def _format(named: Iterable[str | None]) -> str:
    """The newest known format that is named: in the version file or in a generation."""
    known = [found for found in named if found and not formats.is_newer(found)]
    return max((found for found in known if found != "1.0"), key=formats.major, default="")
