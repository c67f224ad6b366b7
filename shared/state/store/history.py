"""The audit trail: all commits that are kept, newest first, and which records each has changed.

Takes no lock and changes nothing. Only the rows that a commit changed are decoded.
"""

import sys
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from shared.host.clock import timestamp
from shared.host.errors import DatabaseDamagedError
from shared.state.contents import Contents
from shared.state.store import generations
from shared.state.store.bundle import Bundle, BundleName, compact
from shared.state.store.difference import Difference, between, rows
from shared.state.store.header import Header, decode_header, header_among
from shared.state.store.kept_generations import Opened, opened

#: Hosts whose clocks are further apart than this are not expected: the walk ends where so many
#: commits in a row are older by so much than what is asked for. A few are of a host whose clock is
#: wrong, and hide nothing of the others.
_CLOCKS_APART: Final = timedelta(days=1)
_IN_A_ROW: Final = 32


@dataclass(frozen=True, slots=True)
class Committed:
    """One commit, as the generation `number` that it made.

    `before` and `after` have the records that it changed, as they were and as they are since; both
    are empty where the generation before is not known. `problem` says why nothing else is known, of
    this generation, or of several of which it is the newest.
    """

    number: int
    header: Header | None = None
    before: Contents = field(default_factory=Contents)
    after: Contents = field(default_factory=Contents)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Generation:
    """The bytes of a generation and its header, or why there is none."""

    number: int
    data: bytes = b""
    header: Header | None = None
    problem: str = ""


def walk(
    root: Path, *, naming: Collection[str] = (), since: datetime | None = None
) -> Iterator[Committed]:
    """All commits that are kept, newest first; lazily, so that one may stop.

    With `naming` those that changed a record in whose JSON one of these texts stands: the others
    are not even decoded. With `since` those that were made then or
    later, by the clocks of their hosts. What is missing or cannot be read is in it as a problem in
    each case. Raises `NoDatabaseError`, `NasError`.
    """
    asked = timestamp(since) if since else ""
    earliest = timestamp(since - _CLOCKS_APART) if since else ""
    walker = _Walker(root, tuple(text.encode("utf-8", "surrogatepass") for text in naming))
    older = 0
    for found in walker.newest_first(earliest):
        older = older + 1 if found.header and found.header.committed < earliest else 0
        if older == _IN_A_ROW:
            return
        if found.header is None or found.header.committed >= asked:
            yield found


class _Walker:
    """One walk. `texts`: what stands in the lines that are asked for; empty: all are."""

    def __init__(self, root: Path, texts: Collection[bytes]) -> None:
        self._root = root
        self._texts = texts
        #: No bundle has a generation above this one: those are in files of their own.
        self._bundled = 0
        #: The generation in a file that was read last: the next step needs it again.
        self._last = _Generation(0)

    def newest_first(self, earliest: str) -> Iterator[Committed]:
        """The commits; it ends at bundles of which all are older than `earliest`."""
        expected = 0
        regions = generations.kept(self._root)
        self._bundled = max((name.last for each in regions for name in each.names), default=0)
        for region in reversed(regions):
            if region.names and all(name.committed < compact(earliest) for name in region.names):
                return
            found = opened(self._root, region)
            for name, problem in reversed(found.damaged):
                yield Committed(name.last, problem=problem)
            asked = self._asked(found)
            for number in reversed(found.numbers):
                if expected > number:
                    yield from _missing(number + 1, expected, found.damaged)
                expected = number - 1
                if number in asked:
                    bundle = found.bundle_of(number)
                    yield from self._of_file(number) if bundle is None else _of(bundle, number)
            if found.damaged:
                lost = min(name.first for name, _ in found.damaged) - 1
                expected = min(expected, lost) if expected else lost

    def _asked(self, found: Opened) -> Container[int]:
        """Which generations of a region may have changed what is asked for."""
        if not self._texts:
            return range(sys.maxsize)
        named = (bundle.naming(self._texts) | bundle.damaged for bundle in found.bundles)
        return frozenset(found.files).union(*named)

    def _of_file(self, number: int) -> Iterator[Committed]:
        """The commit out of the files of a generation and of the one before."""
        after = self._last if self._last.number == number else self._read(number)
        before = self._read(number - 1) if number > 1 else _Generation(0)
        self._last = before
        if after.problem or before.problem:
            yield Committed(after.number, after.header, problem=after.problem)
        elif not self._texts or self._lines(before.data) != self._lines(after.data):
            changed = between(before.data.split(b"\n"), after.data.split(b"\n"))
            yield Committed(after.number, after.header, rows(changed.gone), rows(changed.came))

    def _lines(self, data: bytes) -> set[bytes]:
        """The lines of a generation in which one of the texts stands."""
        places = {place for text in self._texts for place in _places(data, text)}
        return {data[data.rfind(b"\n", 0, at) + 1 : data.find(b"\n", at)] for at in places}

    def _read(self, number: int) -> _Generation:
        try:
            data = None
            if number > self._bundled:  # unless one was made since
                data = generations.read_from_file(self._root, number)
            if data is None:
                data = generations.read_bytes(self._root, number)
            if data is None:
                return _Generation(number, problem="missing")
            return _Generation(number, data, decode_header(data, number)[0])
        except DatabaseDamagedError as error:
            return _Generation(number, problem=error.message)


def _of(bundle: Bundle, number: int) -> Iterator[Committed]:
    """The commit out of a bundle."""
    if number in bundle.damaged:
        yield Committed(number, problem=_damage(bundle, number))
        return
    difference = bundle.difference(number)
    try:
        header = _header(bundle, number, difference)
    except DatabaseDamagedError as error:
        yield Committed(number, problem=error.message)
        return
    if bundle.follows(number):
        yield Committed(number, header, rows(difference.gone), rows(difference.came))
    else:
        yield Committed(number, header)


def _missing(
    first: int, last: int, damaged: Sequence[tuple[BundleName, str]]
) -> Iterator[Committed]:
    """What is said of numbers that are not there, and in no bundle that is damaged."""
    if any(name.first <= last and name.last >= first for name, _ in damaged) or first > last:
        return
    problem = "missing" if first == last else f"generations {first} to {last} are missing"
    yield Committed(last, problem=problem)


def _header(bundle: Bundle, number: int, difference: Difference) -> Header:
    header = header_among(difference.came, bundle.repository, number)
    if header is None:  # two commits that say the same of themselves
        header, _ = decode_header(bundle.generation(number) or b"", number)
    return header


def _damage(bundle: Bundle, number: int) -> str:
    try:
        decode_header(bundle.generation(number) or b"", number)
    except DatabaseDamagedError as error:
        return error.message
    return "damaged"


def _places(data: bytes, text: bytes) -> Iterator[int]:
    place = data.find(text)
    while place >= 0:
        yield place
        place = data.find(text, place + 1)
