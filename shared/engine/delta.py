"""Only the change on the wire: bytes that the previous copy holds already are copied by the NAS itself, the rest is sent.

Everything is read, compressed and hashed here, and the manifest is made from these bytes; a grain whose bytes are those of the
same grain of the previous copy is not sent but copied there with `copy_file_range`. The result is a plain, complete OVA. Rot in
the previous copy would be copied along; the manifest shows it to whoever checks the copy, and each n-th copy is sent whole.

It saves only the wire, and only where the NAS copies by itself: on NFS 4.2. Elsewhere everything is sent, and the reason is told.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from shared.engine.index import Index, IndexWriter, Record, Section
from shared.engine.ova import Archive, Member
from shared.engine.vmdk import Unit
from shared.errors import CopyError, NasError

_SECTOR: Final = 512
_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """Where the index of the new copy goes (a new file), and the copy before it with its index, if there is one.

    `whole_every`: each so many copies one is sent whole. `wire_only`: copy only where that saves the wire (else: wherever it works).
    """

    index: Path
    previous: Path | None = None
    previous_index: Path | None = None
    whole_every: int = 10
    wire_only: bool = True


def refusal(plan: DeltaPlan, target: Path, mounts: str) -> str:
    """Why everything must be sent; empty if not. `mounts`: the text of /proc/self/mountinfo."""
    if plan.previous is None or plan.previous_index is None:
        return "there is no copy before it"
    if not hasattr(os, "copy_file_range"):
        return "this system has no copy_file_range"
    try:
        device = os.stat(target.parent).st_dev
        if os.stat(plan.previous).st_dev != device:
            return "the copy before it is on another file system"
    except OSError as error:
        return f"the copy before it cannot be used: {error.strerror}"
    if plan.wire_only and not _is_nfs_4_2(f"{os.major(device)}:{os.minor(device)}", mounts):
        return "the storage is not mounted with NFS 4.2, which alone copies by itself"
    return ""


def _is_nfs_4_2(device: str, mounts: str) -> bool:
    """A line of mountinfo has the device as its third word, and after a lonely hyphen type, source and options."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [device]:
            kind, _, options = after.split(" ", 2)
            return kind == "nfs4" and "vers=4.2" in options.split(",")
    return False


class Delta:
    """The previous copy and its index, open, and the index of the new copy. `reason` says why everything is sent; empty if not."""

    def __init__(self, plan: DeltaPlan, target: Path, mounts: Callable[[], str] = lambda: _MOUNTS.read_text(encoding="utf-8")) -> None:
        """Raises `NasError` if the index cannot be created. Close it."""
        self._closing = ExitStack()
        self._index: Index | None = None
        self._source = -1
        self._plan = plan
        try:
            self._writer = self._closing.enter_context(IndexWriter(plan.index))
            self.reason = refusal(plan, target, mounts() if plan.wire_only else "") or self._open_previous()
        except OSError as error:
            self._closing.close()
            raise NasError(f"cannot write {plan.index}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closing.close()
        if kind is not None:
            self._plan.index.unlink(missing_ok=True)

    def begin(self, place: str, position: int) -> "DiskDelta":
        """The grains of the disk attached at `place` follow; its file begins at `position` of the OVA."""
        self._writer.begin(place, position)
        section = self._index.section(place) if self._index else None
        if self._index is None or section is None:
            return DiskDelta(self._writer, self._source, None, iter(()))
        return DiskDelta(self._writer, self._source, section, self._index.records(section))

    def finish(self, members: tuple[Member, ...], ova_bytes: int) -> None:
        """Completes the new index. Raises `NasError`."""
        generation = self._index.header.generation + 1 if self._index else 0
        try:
            self._writer.finish(generation, members, ova_bytes)
        except OSError as error:
            raise NasError(f"cannot write {self._plan.index}: {error.strerror}") from None

    def _open_previous(self) -> str:
        """Opens the previous copy if its index is whole and its own; the reason why not."""
        if self._plan.previous is None or self._plan.previous_index is None:
            return "there is no copy before it"
        try:
            index = Index.open(self._plan.previous_index)
            self._closing.callback(index.close)
            source = os.open(self._plan.previous, os.O_RDONLY | os.O_CLOEXEC)
            self._closing.callback(os.close, source)
        except (CopyError, OSError) as error:
            return f"the copy before it has no index that can be used: {error}"
        header = index.header
        if header.generation + 1 >= self._plan.whole_every:
            return f"one of {self._plan.whole_every} copies is sent whole"
        manifest = os.pread(source, header.manifest_bytes, header.manifest_position)
        if os.fstat(source).st_size != header.ova_bytes or hashlib.sha256(manifest).hexdigest() != header.manifest_sha256:
            return "the index of the copy before it belongs to another file"
        self._index, self._source = index, source
        return ""


class DiskDelta:
    """One disk on its way into the archive: what of it the previous copy holds is copied, the rest is written."""

    def __init__(self, writer: IndexWriter, source: int, section: Section | None, records: Iterator[Record]) -> None:
        self._writer = writer
        self._source = source
        self._section = section
        self._records = records
        self._record = next(records, None)

    def put(self, unit: Unit, sector: int, archive: Archive) -> None:
        """The next unit, whose first byte is at `sector` of the disk's file. Neighbouring grains of a kind go together."""
        view = memoryview(unit.data)
        ends = [place[1] * _SECTOR for place in unit.places[1:]] + [len(unit.data)]
        start, unsent = 0, 0
        for (grain, offset), end, digest in zip(unit.places, ends, unit.digests, strict=True):
            found = self._find(grain, digest)
            self._writer.add(Record(grain, sector + offset, digest))
            if found is not None:
                if unsent < start:
                    archive.write(view[unsent:start])
                archive.copy(view[start:end], self._source, found)
                unsent = end
            start = end
        if unsent < start:
            archive.write(view[unsent:start])

    def _find(self, grain: int, digest: bytes) -> int | None:
        """Where the previous copy has these bytes; None if it has others there."""
        while self._record and self._record.grain < grain:
            self._record = next(self._records, None)
        if self._section and self._record and (self._record.grain, self._record.digest) == (grain, digest):
            return self._section.position + self._record.sector * _SECTOR
        return None
