"""Going on with a VM that runs from its copy: its disks are served again, and it is started."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from coordinator.booting import (
    boot_hold,
    isolation,
    locks,
    machine_making,
    machines,
    mounts,
    settling,
)
from shared.copies.catalogue import Copy
from shared.host.errors import LockedError, NasError, UsageError
from shared.host.processes import SubprocessRunner
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks import boot_note
from shared.tasks.boot_note import BootNote
from shared.tasks.boot_progress import progress
from shared.virtualbox.vboxmanage_output import STOPPED

#: A guest that waits asks again as soon as it is resumed, and its server says every second what
#: was refused.
_ASKED_AGAIN_SECONDS: Final = 2.0


def go_on(
    site: Site,
    note: BootNote,
    copy_of: Callable[[], tuple[VmRecord, Copy]],
    config: str | None,
) -> tuple[BootNote, tuple[str, ...]]:
    """Serves the disks again from the same copy, if they need that, and nobody does.

    One that is whole and off needs it no more, nor one that was moved with its disks. Answers the
    note as it is by then, and what a server that was started doubts, like `making.serve`. Raises
    `UsageError` if the VM is another user's or VirtualBox does not list it, `LockedError` while it
    runs on what is not served any more, `CopyError` if the copy is another one by now, and what
    `copy_hold.place` raises.
    """
    machines.require_owner(note)
    with locks.alone(note):
        found = boot_note.read(note.file)
        if found is None:
            return note, ()
        if machines.moved_away(site, found):
            return found, ()
        note = machines.followed(site, found)
        if settling.is_begun(note) or mounts.is_served(note):
            return note, ()
        machines.listed(site, note)
        info = site.vboxmanage.info(note.uuid)
        if note.is_whole and settling.is_off(info):
            return note, ()
        if not info.stopped and info.state in STOPPED:
            raise LockedError(
                f"somebody has {note.name!r} open in VirtualBox", hint="close it there, then again"
            )
        if not info.stopped:
            raise LockedError(
                f"{note.name!r} is on, and what served its disks is gone",
                hint=f"switch it off (VBoxManage controlvm {note.uuid} poweroff), then again: what "
                "it had flushed to its disks is kept",
            )
        mounts.make_free(note, SubprocessRunner())
        record, copy = copy_of()
        boot_hold.place(site, record, note)
        sha256 = copy.sidecar.sha256 if copy.sidecar else ""
        return note, machine_making.serve(note, copy, sha256, config, fresh=False)


def require_as_begun(
    site: Site, note: BootNote, *, network: bool | None, folder: Path | None
) -> None:
    """Raises `UsageError` if it is wanted otherwise than it was begun, as nothing changes it now.

    `network`: whether one is wanted; None: as it is. So is `folder`, in which its own should be:
    where its user has moved it meanwhile.
    """
    if folder is not None:
        _require_folder(site, note, folder)
    if network is not None:
        if machines.moved_away(site, note) is None:
            machines.listed(site, note)
        isolation.require_network(site, note, wanted=network)


def _require_folder(site: Site, note: BootNote, folder: Path) -> None:
    own = machines.folder_of(site, note)
    if os.path.realpath(folder) == os.path.realpath(own.parent):
        return
    moved = f", and lies in {own} by now" if own != note.folder else ""
    raise UsageError(
        f"{note.name!r} was begun before, in {note.folder}{moved}: --to is for one that is made",
        hint="without --to it goes on there; when it is an ordinary VM, VBoxManage movevm moves it",
    )


def start(site: Site, note: BootNote) -> bool:
    """Starts the VM unless it is on, and resumes it if it is paused; whether it did.

    Raises `LockedError`, `UsageError` if VirtualBox does not list it, `VBoxManageError`.
    """
    # else it is an ordinary VM by now, wherever it lies
    if note.file.exists() and machines.moved_away(site, note) is None:
        machines.listed(site, note)
    with locks.alone(note):
        started = machines.switch_on(site, note.uuid)
    if started:
        locks.forget(note)
    return started


def require_not_paused_again(site: Site, note: BootNote) -> None:
    """Raises `NasError` if its guest waited, was resumed, and still cannot read what it wants."""
    if progress(note).unread:
        site.clock.sleep(_ASKED_AGAIN_SECONDS)
        why = progress(note).paused
        if why and site.vboxmanage.info(note.uuid).state == "paused":
            raise NasError(f"{note.name!r} is {why}")
