"""Compresses a disk unit by unit, and lays each out as a VMDK has it (see `vmdk`).

Pure: bytes in, bytes out.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from shared.host.errors import CopyError
from shared.ova.compression import Codec
from shared.ova.grain_columns import GrainColumns
from shared.ova.vmdk import GRAIN, GRAIN_HEADER, SECTOR, MarkerKind, render_marker

_ZEROS: Final = bytes(GRAIN)
#: What readers skip; it fills up.
FILLER: Final = render_marker(MarkerKind.FILLER)

#: A digest of the bytes that it is given.
GrainDigest = Callable[[bytes | memoryview], bytes]


class TakenRun(NamedTuple):
    """Grains that the copy before has side by side, from the sector `source` of its `.ova` on."""

    source: int
    grains: GrainColumns


class PlacedRun(NamedTuple):
    """Grains that lie side by side in a unit: `grains` says where, in sectors of the unit.

    `source` is where they begin in the copy before, in sectors of its `.ova`; None: they were
    compressed, and are in the unit's data.
    """

    grains: GrainColumns
    source: int | None = None

    @property
    def length(self) -> int:
        """How many bytes they have."""
        return sum(self.grains.lengths) * SECTOR


@dataclass(frozen=True, slots=True)
class CompressedUnit:
    """A part of the disk, laid out in so many `sectors`.

    `data` is what was compressed, and what fills that up, one after the other; what the copy before
    has is not in it.
    """

    data: bytes = b""
    runs: tuple[PlacedRun, ...] = ()
    sectors: int = 0


@dataclass(frozen=True, slots=True)
class UnitSettings:
    """How units are made.

    With `self_check` each grain is inflated again at once, and compared: `CopyError` if it differs.
    `digest` is applied to each compressed grain, for an index. Units are filled up to multiples of
    `alignment` bytes; what fills one up belongs to its last grain, unless that is taken.
    """

    codec: Codec
    self_check: bool = True
    digest: GrainDigest | None = None
    alignment: int = SECTOR


def compress_unit(position: int, data: bytes, settings: UnitSettings) -> CompressedUnit:
    """Compresses the part of a disk at `position`, a multiple of the grain.

    A last short grain is filled up with zeros; those of zeros take no room.
    """
    if missing := -len(data) % GRAIN:
        data += bytes(missing)
    unit = _Unit(settings)
    for offset in range(0, len(data), GRAIN):
        unit.compress((position + offset) // GRAIN, data, offset)
    return unit.finish()


def mixed_unit(
    changed: Mapping[int, bytes], taken: Iterable[TakenRun], settings: UnitSettings
) -> CompressedUnit:
    """The same for a part of which the copy before has some grains, `taken`, in runs.

    `changed` are the bytes of those that it does not have, by number. What is in neither is zeros.
    Where blocks are shared, a run begins as its source does, so that all of it can be.
    """
    unit = _Unit(settings)
    parts: dict[int, bytes | TakenRun] = {run.grains.numbers[0]: run for run in taken}
    parts.update(changed)
    for number in sorted(parts) if changed else parts:
        part = parts[number]
        if isinstance(part, TakenRun):
            unit.take(part)
        else:
            unit.compress(number, part.ljust(GRAIN, b"\0"), 0)
    return unit.finish()


class _Unit:
    """A unit that is laid out from its first grain to its last."""

    def __init__(self, settings: UnitSettings) -> None:
        self._settings = settings
        self._pieces: list[bytes] = []
        self._runs: list[PlacedRun] = []
        self._sectors = 0
        #: Where the compressed grains that are not yet a run begin.
        self._run_at = 0
        self._numbers: list[int] = []
        self._packed: list[bytes] = []

    def compress(self, number: int, data: bytes, offset: int) -> None:
        """The next grain: so many bytes of `data` from `offset` on."""
        if data.startswith(_ZEROS, offset):  # as fast as can be, and without copying
            return
        codec = self._settings.codec
        packed = codec.compress(memoryview(data)[offset : offset + GRAIN])
        if self._settings.self_check and not _holds(codec.decompress(packed), data, offset):
            raise CopyError(
                f"compressing with {codec.name} went wrong at byte {number * GRAIN} of the disk",
                hint="test the memory of this host",
            )
        piece = _laid_out(number, packed)
        self._numbers.append(number)
        self._packed.append(piece)
        self._sectors += len(piece) // SECTOR

    def take(self, run: TakenRun) -> None:
        """The next grains, which the copy before has."""
        self._end_run(run.source)
        grains = run.grains.moved(self._sectors - run.grains.sectors[0])
        self._runs.append(PlacedRun(grains, run.source))
        self._sectors += sum(grains.lengths)
        self._run_at = self._sectors

    def finish(self) -> CompressedUnit:
        """The unit."""
        self._end_run(0)
        if missing := self._missing(0):
            self._pieces.append(FILLER * missing)
            self._sectors += missing
        return CompressedUnit(b"".join(self._pieces), tuple(self._runs), self._sectors)

    def _missing(self, like: int) -> int:
        """How many sectors are missing until a place that lies to the blocks as `like` does."""
        return (like - self._sectors) % (self._settings.alignment // SECTOR)

    def _end_run(self, like: int) -> None:
        """Ends the run of compressed grains, and fills it up to such a place."""
        if not self._numbers:
            return
        if missing := self._missing(like):
            self._packed[-1] += FILLER * missing
            self._sectors += missing
        self._runs.append(PlacedRun(self._columns()))
        self._pieces += self._packed
        self._run_at = self._sectors
        self._numbers, self._packed = [], []

    def _columns(self) -> GrainColumns:
        lengths = [len(piece) // SECTOR for piece in self._packed]
        at, sectors = self._run_at, []
        for length in lengths:
            sectors.append(at)
            at += length
        digest = self._settings.digest
        digests = tuple(map(digest, self._packed)) if digest else ()
        return GrainColumns(tuple(self._numbers), tuple(sectors), tuple(lengths), digests)


def _laid_out(number: int, packed: bytes) -> bytes:
    """A compressed grain with its header, filled up to whole sectors."""
    padding = _ZEROS[: -(len(packed) + GRAIN_HEADER.size) % SECTOR]
    return b"".join((GRAIN_HEADER.pack(number * (GRAIN // SECTOR), len(packed)), packed, padding))


def _holds(inflated: bytes, data: bytes, offset: int) -> bool:
    """Whether this is the grain of `data` at `offset`."""
    return len(inflated) == GRAIN and data.startswith(inflated, offset)
