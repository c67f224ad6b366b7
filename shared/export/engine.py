"""Exports a VM with the parallel engine, from the first lock to the last flush.

The order is what makes it safe: the disks are read-locked in VirtualBox; the caller looks whether
the VM is still as it should be (from here on it cannot start); VirtualBox describes the VM; the
images are opened and checked; they are copied; the storage has everything; the locks prove that
they lasted; only then are they let go.

Where the images can be frozen, clones of them are what is opened and copied: the locks prove that
they lasted as soon as there are clones, and are let go before the first block is copied.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.export import disk_writing
from shared.export.delta import Delta, DeltaPlan
from shared.export.description import Description, take_description
from shared.export.disk_writing import Guard
from shared.export.eligibility import SourceDisk, open_disk
from shared.export.freezing import Freezer
from shared.export.pipeline import CompressionSettings, ReadMeter
from shared.export.raw_digests import RawDigests
from shared.export.read_lock import ReadLock
from shared.export.unchanged import unchanged
from shared.host.errors import CopyError, DiskImageError
from shared.host.rate_limit import UNLIMITED, Pace
from shared.ova.disk import Chain
from shared.ova.ova_writing import OvaWriter, WrittenMember
from shared.ova.ovf import DescribedDisk, disk_files
from shared.ova.parts import MadeParts
from shared.virtualbox.export_words import ExportedAs
from shared.virtualbox.vboxmanage import VBoxManage

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export: the VM's UUID and its disks; and where to: a file that must not exist.

    `shown` is what the VM is called in the OVA (its own name, if what is exported is a clone).
    `scratch` is a directory on a local disk. `modified` is the time of the files in the OVA, in
    seconds since the epoch. With a `freezer` the VM is frozen if it can be, and may be started from
    then on (`Freezer.frozen`). If it cannot, what is on its disks is compared with `digests`, and
    noted there. `pace` is how fast it is sent.
    """

    machine: str
    disks: tuple[SourceDisk, ...]
    target: Path
    scratch: Path
    modified: int
    shown: ExportedAs = ExportedAs()  # noqa: RUF009 - a constant
    freezer: Freezer | None = None
    digests: RawDigests | None = None
    pace: Pace = UNLIMITED


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written: the size of the OVA, and its members with their digests.

    It has `source_bytes` of the disks, of which `unread` did not change since the copy before, so
    that they were not read. `copied_bytes` of it the storage copied from the previous copy; `sent`
    says why none, if that was planned. `index` is the digest of its index, if it has one; `parts`
    what it is made of, if nobody has read all of it.
    """

    size: int
    members: tuple[WrittenMember, ...]
    source_bytes: int
    copied_bytes: int
    sent: str
    unread: int = 0
    index: str = ""
    parts: MadeParts | None = None


def export_vm(
    vboxmanage: VBoxManage,
    request: ExportRequest,
    settings: CompressionSettings,
    *,
    confirm: Callable[[], str],
    meter: ReadMeter,
    cancelled: threading.Event,
    plan: DeltaPlan | None = None,
) -> ExportSummary:
    """Exports a VM, in the caller's thread.

    `confirm` is called once the disks are locked: it says what VirtualBox calls the VM, or raises
    if that is not as it should be. With a `plan` the new copy gets an index, and what the copy
    before it holds is not sent. Raises what `confirm` and the freezer's moment raise;
    `DiskImageError`, `VBoxManageError`, `CopyError`, `NasError`; `CancelledError` soon after
    `cancelled` is set. After an error the target and its index are deleted, and nothing is left in
    VirtualBox; clones are for the caller to remove. A process that is killed leaves an incomplete
    target and its clones, and no lock.
    """
    with ExitStack() as stack:
        held = stack.enter_context(ExitStack())
        locks: Sequence[ReadLock] = [
            held.enter_context(ReadLock.take(vboxmanage, disk.medium, cancelled))
            for disk in request.disks
        ]
        description = _describe(vboxmanage, request, confirm(), cancelled)
        chains, guards, locks = _open(request, locks, held, stack)
        parts = match_disks(disk_files(description.ovf), request.disks, chains)
        meter.total = sum(chain.data_bytes() for chain in chains)
        delta = stack.enter_context(Delta(plan, request.target)) if plan else None
        ova = OvaWriter(
            request.target, modified=request.modified, cancelled=cancelled, pace=request.pace
        )
        try:
            for name, data in description.members:
                ova.add(name, data)
            if delta:
                delta.unchanged = unchanged(request.freezer, request.digests, delta, parts, stack)
            disk_writing.write_disks(ova, parts, settings, guards, meter, cancelled, delta)
            members = ova.finish(f"{description.name}.mf")
            _require_unchanged(chains)
            _prove(locks, chains if locks else ())
            index = delta.finish(members, ova.position) if delta else ""
            made_of = delta.parts(ova, members) if delta else None
            ova.close()
        except BaseException:
            ova.discard()
            raise
    reason = delta.reason if delta else ""
    return ExportSummary(
        ova.position, members, meter.done, ova.copied, reason, meter.unread, index, made_of
    )


def _describe(
    vboxmanage: VBoxManage, request: ExportRequest, name: str, cancelled: threading.Event
) -> Description:
    """What VirtualBox writes about the VM, which it calls `name`."""
    return take_description(
        vboxmanage,
        request.machine,
        name,
        disks=len(request.disks),
        scratch=request.scratch,
        cancelled=cancelled,
        shown=request.shown,
    )


def _open(
    request: ExportRequest, locks: Sequence[ReadLock], held: ExitStack, stack: ExitStack
) -> tuple[Sequence[Chain], Sequence[Guard], Sequence[ReadLock]]:
    """Opens the disks, frozen if they can be; then their locks, which `held` has, are let go.

    Returns what is read, what must hold meanwhile, and the locks that must last until the end.
    """
    freezer = request.freezer
    frozen = freezer.freeze(request.disks) if freezer else ()
    chains = [stack.enter_context(open_disk(disk)) for disk in frozen or request.disks]
    if not (freezer and frozen):
        return chains, locks, locks
    _prove(locks, chains)
    held.close()
    freezer.frozen = True
    return chains, [freezer], ()


def match_disks(
    files: Sequence[DescribedDisk], disks: Sequence[SourceDisk], chains: Sequence[Chain]
) -> list[tuple[DescribedDisk, Chain]]:
    """Which disk goes into which file: the one with the same attachment.

    Raises `DiskImageError` unless all fit exactly. VirtualBox writes a size of 0 for a disk that it
    has not opened since it was started.
    """
    chain_at = {disk.attachment: chain for disk, chain in zip(disks, chains, strict=True)}
    if sorted(chain_at) != sorted(file.attachment for file in files):
        raise DiskImageError(
            "the disks of the VM are not those that VirtualBox exports: they were changed a "
            "moment ago"
        )
    parts = [(file, chain_at[file.attachment]) for file in files]
    for file, chain in parts:
        if file.size not in (0, chain.size):
            raise DiskImageError(
                f"{chain.images[0].path}: a disk of {chain.size} bytes, which VirtualBox "
                f"exports with {file.size}"
            )
    return parts


def _require_unchanged(chains: Sequence[Chain]) -> None:
    """Raises `CopyError` unless all files that were read are what they were."""
    for chain in chains:
        if changed := chain.changed():
            raise CopyError(f"{changed} was changed while it was read")


def _prove(locks: Sequence[ReadLock], chains: Sequence[Chain]) -> None:
    """Raises `CopyError` unless the locks of these disks lasted until now."""
    for lock, chain in zip(locks, chains, strict=True):
        lock.prove(chain)
