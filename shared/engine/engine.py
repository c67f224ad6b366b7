"""Exports a VM with the parallel engine, from the first lock to the last flush.

The order is what makes it safe: the disks are read-locked in VirtualBox; the caller looks whether the VM is still as it
should be (from here on it cannot start); VirtualBox describes the VM; the images are opened and checked; they are copied;
the storage has everything; the locks prove that they lasted; only then are they let go.
"""

import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from shared.engine.chain import Chain
from shared.engine.eligible import SourceDisk, open_disk
from shared.engine.head import Description, take_description
from shared.engine.holder import ReadLock
from shared.engine.ova import Archive, Member
from shared.engine.ovf import DiskFile, disk_files
from shared.engine.pipeline import Meter, Pipeline, Settings
from shared.engine.vmdk import Layout, Unit
from shared.errors import CopyError, DiskImageError
from shared.virtualbox.vboxmanage import VBoxManage


@dataclass(frozen=True, slots=True)
class Request:
    """What to export: the VM's UUID and its disks; where to: a file that must not exist.

    `name` is what the files in the OVA are called after, `rename` another name for the VM itself (its own, if what is exported is
    a clone). `scratch` is a directory on a local disk. `modified` is the time of the files in the OVA, in seconds since the epoch.
    """

    machine: str
    disks: tuple[SourceDisk, ...]
    target: Path
    name: str
    scratch: Path
    modified: int
    rename: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written: the size of the OVA and its members with their digests, and how many bytes of the disks were read for it."""

    size: int
    members: tuple[Member, ...]
    source_bytes: int


def export(
    vboxmanage: VBoxManage,
    request: Request,
    settings: Settings,
    *,
    confirm: Callable[[], None],
    meter: Meter,
    cancelled: threading.Event,
) -> Summary:
    """Exports, in the caller's thread. `confirm` is called once the disks are locked: it raises if the VM is not as it should be.

    Raises what `confirm` raises; `DiskImageError`, `VBoxManageError`, `CopyError`, `NasError`; `CancelledError` soon after
    `cancelled` is set. After an error the target is deleted, and nothing is left in VirtualBox. A process that is killed leaves
    an incomplete target, and no lock.
    """
    with ExitStack() as stack:
        locks = [stack.enter_context(ReadLock.take(vboxmanage, disk.medium, cancelled)) for disk in request.disks]
        confirm()
        description = take_description(
            vboxmanage, request.machine, scratch=request.scratch, name=request.name, cancelled=cancelled, rename=request.rename
        )
        chains = [stack.enter_context(open_disk(disk)) for disk in request.disks]
        parts = assign(disk_files(description.ovf), request.disks, chains)
        meter.total = sum(chain.data_bytes() for chain in chains)
        archive = Archive(request.target, modified=request.modified, cancelled=cancelled)
        try:
            _write(archive, description, parts, settings, locks, meter, cancelled)
            members = archive.finish(f"{description.name}.mf")
            for lock, chain in zip(locks, chains, strict=True):
                if changed := chain.changed():
                    raise CopyError(f"{changed} was changed while it was read")
                lock.prove(chain)
            archive.close()
        except BaseException:
            archive.discard()
            raise
    return Summary(archive.position, members, meter.done)


def assign(files: Sequence[DiskFile], disks: Sequence[SourceDisk], chains: Sequence[Chain]) -> list[tuple[DiskFile, Chain]]:
    """Which disk goes into which file: the one that is attached at the same place. Raises `DiskImageError` unless all fit exactly.

    VirtualBox writes a size of 0 for a disk that it has not opened since it was started.
    """
    places = {disk.slot: chain for disk, chain in zip(disks, chains, strict=True)}
    if sorted(places) != sorted(file.slot for file in files):
        raise DiskImageError("the disks of the VM are not those that VirtualBox exports: they were changed a moment ago")
    parts = [(file, places[file.slot]) for file in files]
    for file, chain in parts:
        if file.size not in (0, chain.size):
            raise DiskImageError(f"{chain.images[0].path}: a disk of {chain.size} bytes, which VirtualBox exports with {file.size}")
    return parts


class _Sink:
    """Passes the bytes of a disk on to the archive, as long as the locks are held."""

    def __init__(self, archive: Archive, locks: Sequence[ReadLock]) -> None:
        self._archive = archive
        self._locks = locks

    def put(self, data: bytes, unit: Unit | None) -> None:  # noqa: ARG002 - all bytes are treated alike
        """See `Sink.put`."""
        for lock in self._locks:
            lock.check()
        self._archive.write(data)


def _write(
    archive: Archive,
    description: Description,
    parts: Sequence[tuple[DiskFile, Chain]],
    settings: Settings,
    locks: Sequence[ReadLock],
    meter: Meter,
    cancelled: threading.Event,
) -> None:
    """The description and the disks, in VirtualBox's order."""
    for name, data in description.members:
        archive.add(name, data)
    pipeline = Pipeline(settings, cancelled)
    try:
        for file, chain in parts:
            archive.begin(file.name)
            layout = Layout(file.name, chain.size, secrets.randbits(32), uuid4())
            pipeline.copy(chain, layout, _Sink(archive, locks), meter)
            archive.end()
    finally:
        pipeline.close()
