"""Sends only what has changed: what the previous copy holds already, the NAS copies from there.

A grain whose bytes are those of the same grain of the previous copy is not sent but copied there
with `copy_file_range`. The result is a plain, complete OVA. Everything is read, compressed and
hashed here, and the manifest is made from these bytes, so that it shows rot that was copied along;
but for grains that are known to be what they were (`shared.export.takeover`): those nobody reads,
the manifest has no digest of their disk, and the digests of everything else of it are kept as
`parts`. Each n-th copy is sent whole.

It saves the wire where the NAS copies by itself, and room where its file system shares blocks
between files. Whether it does is for the caller to know (`shared.nas.server_copy`).
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from shared.export.disk_delta import DiskDelta
from shared.export.takeover import PreviousDisk, PreviousSection
from shared.host.errors import CopyError, NasError
from shared.nas.reading import open_file
from shared.ova.grain_columns import GrainCursor
from shared.ova.index import GrainIndex
from shared.ova.index_writing import IndexWriter
from shared.ova.ova_writing import OvaWriter, WrittenMember
from shared.ova.parts import MadeParts, Part, Parts
from shared.ova.vmdk import SECTOR

if TYPE_CHECKING:
    from shared.export.compared_disk import ComparedDisk

#: Blocks of file systems that share them between files.
REFLINK_ALIGNMENT: Final = 4096


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """Where the index of the new copy goes (a new file), and the previous copy with its index.

    `whole_every`: one of so many copies is sent whole. `aligned`: units begin at multiples of
    4096 bytes of the OVA, so that file systems that share blocks can; it makes a copy 0.5 % larger.
    `unread`: grains that are known to be what they were need not be read, if the previous index is
    the one with this SHA-256; empty: everything is read.
    """

    index: Path
    previous: Path | None = None
    previous_index: Path | None = None
    whole_every: int = 10
    aligned: bool = False
    unread: str = ""

    @property
    def alignment(self) -> int:
        """Units begin at multiples of so many bytes."""
        return REFLINK_ALIGNMENT if self.aligned else SECTOR


def refusal(plan: DeltaPlan, target: Path) -> str:
    """Why everything must be sent; empty if not."""
    if plan.previous is None or plan.previous_index is None:
        return "there is no copy before it"
    if not hasattr(os, "copy_file_range"):
        return "this system has no copy_file_range"
    try:
        if os.stat(plan.previous).st_dev != os.stat(target.parent).st_dev:
            return "the copy before it is on another file system"
    except OSError as error:
        return f"the copy before it cannot be used: {error.strerror}"
    return ""


class Delta:
    """The previous copy and its index, open, and the index of the new copy.

    `reason` says why everything is sent; empty if not. `unchanged` has by place what of the disks
    is taken over unread from the previous copy, if that is known.
    """

    def __init__(self, plan: DeltaPlan, target: Path) -> None:
        """Raises `NasError` if the index cannot be created. Close it."""
        self._closing = ExitStack()
        self._index: GrainIndex | None = None
        self._source = -1
        self._plan = plan
        self.unchanged: Mapping[str, PreviousDisk | ComparedDisk] = {}
        self._disks: list[DiskDelta] = []
        try:
            self._writer = self._closing.enter_context(IndexWriter(plan.index))
        except OSError as error:
            raise NasError(f"cannot write {plan.index}: {error.strerror}") from None
        try:
            self.reason = refusal(plan, target) or self._open_previous()
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closing.close()
        if kind is not None:
            self._plan.index.unlink(missing_ok=True)

    @property
    def alignment(self) -> int:
        """See `DeltaPlan.aligned`."""
        return self._plan.alignment

    def begin(self, place: str, position: int) -> "DiskDelta":
        """Starts the disk that is attached at `place` (`SATA-0-0`).

        Its file begins at `position` of the OVA.
        """
        self._writer.begin(place, position)
        section = self._index.section(place) if self._index else None
        grains = GrainCursor(self._index.columns(section) if self._index and section else iter(()))
        disk = DiskDelta(place, position, self._writer, self._source, section, grains)
        self._disks.append(disk)
        return disk

    def previous(self, place: str, stamp: str, index: str) -> PreviousSection | None:
        """The disk that was attached there, in the copy before, if that is the copy `stamp`.

        `index` is the digest of its index, by what is known of it on this host. None if it is
        another one, or if nothing may be taken over that nobody has read.
        """
        if self._index is None or self._plan.previous is None:
            return None
        if self._index.sha256 != self._plan.unread or not self._index.has_lengths:
            return None
        if (self._plan.previous.stem, self._index.digest) != (stamp, index):
            return None
        section = self._index.section(place)
        return PreviousSection(self._index, section) if section else None

    def finish(self, members: tuple[WrittenMember, ...], ova_bytes: int) -> str:
        """Completes the new index, and returns its digest. Raises `NasError`."""
        return self._writer.finish(
            self._index.header.generation + 1 if self._index else 0, members, ova_bytes
        )

    def parts(self, ova: OvaWriter, members: Sequence[WrittenMember]) -> MadeParts | None:
        """What the finished OVA is made of, if not all of it was read; None if it was."""
        if all(member.sha256 for member in members):
            return None
        disks = {disk.position: disk for disk in self._disks}
        found = tuple(
            Part(member.name, member.position, member.size, disk.between, disk.place)
            if (disk := disks.get(member.position))
            else Part(member.name, member.position, member.size, member.sha256)
            for member in members
        )
        return MadeParts(Parts(ova.frame, found), tuple(ova.ranges))

    def _open_previous(self) -> str:
        """Opens the previous copy if its index is whole and its own; the reason why not."""
        if self._plan.previous is None or self._plan.previous_index is None:
            return "there is no copy before it"
        try:
            index = GrainIndex.open(self._plan.previous_index)
            self._closing.callback(index.close)
            source = self._closing.enter_context(open_file(self._plan.previous)).fileno()
            header = index.header
            manifest = os.pread(source, header.manifest_bytes, header.manifest_position)
        except (CopyError, OSError, OverflowError) as error:
            return f"the copy before it has no index that can be used: {error}"
        if header.generation + 1 >= self._plan.whole_every:
            return f"one of {self._plan.whole_every} copies is sent whole"
        if (
            os.fstat(source).st_size != header.ova_bytes
            or hashlib.sha256(manifest).hexdigest() != header.manifest_sha256
        ):
            return "the index of the copy before it belongs to another file"
        self._index, self._source = index, source
        return ""
