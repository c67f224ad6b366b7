"""Restoring a copy as a new VM of this host.

Nothing that is there is overwritten, and what fails leaves nothing behind.

It needs the NAS for reading only and takes no claim, so that a VM can be restored whatever holds
its record up. The folder of the new VM is made here, exclusively, before VirtualBox is asked: so
what is in it is ours to remove. If this process is killed, VirtualBox goes on with the import by
itself, and the VM is there afterwards.
"""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.restore.folder import own_folder, registered_in, remove_from
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.copies.side_files import member_names
from shared.copies.space import human
from shared.host.clock import timestamp
from shared.host.errors import CopyError, UsageError, VBoxManageError
from shared.site import Site
from shared.state.records import Restoration
from shared.state.rules import copies
from shared.tasks import verification
from shared.virtualbox.importing import ImportPlan, RunningImport, default_folder, refuse_unsafe

log: Final = logging.getLogger(__name__)

#: Told what is being done (`verify`, `import`) and how far it is, in percent.
Progress = Callable[[str, float], None]

_CANCEL_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Restored:
    """A VM that was made of a copy."""

    name: str
    uuid: str
    settings_file: str
    stamp: str


def plan(
    site: Site,
    copy: Copy,
    *,
    name: str | None = None,
    folder: Path | None = None,
    keep_macs: bool = True,
) -> ImportPlan:
    """What is to be made of a copy.

    By default a VM of the original's name, where VirtualBox puts new VMs.

    Raises `UsageError` if that name or folder is taken on this host, `CopyError` if the copy must
    not be imported as it is or has no room.
    """
    if copy.sidecar is None:
        raise CopyError(f"the copy {copy.stamp} cannot be used: {copy.problem}")
    source = copy.directory / final_name(copy.stamp, "ova")
    base = (folder or default_folder(site.vboxmanage)).absolute()
    made = ImportPlan(source, copy.sidecar.vm if name is None else name, base, keep_macs)
    if not made.name:
        raise UsageError("a VM needs a name", hint="--as NAME")
    taken = next(
        (machine for machine in site.inventory().values() if machine.name == made.name), None
    )
    if taken is not None:
        raise UsageError(
            (
                f"this host has a VM {made.name!r} already ({{{taken.uuid}}}); a restore never "
                f"overwrites one"
            ),
            hint="give the restored one another name: --as NAME",
        )
    if os.path.lexists(made.folder):
        raise UsageError(
            f"{made.folder} is there already; a restore never overwrites anything",
            hint="another name (--as) or place (--to)",
        )
    refuse_unsafe(member_names(copy.directory, source.name))
    _check_room(base, max(copy.size, copy.sidecar.source_bytes))
    return made


def verify(copy: Copy, progress: Progress) -> None:
    """Reads the copy in full. Raises `CopyError` if it is damaged."""

    def report(done: int, total: int) -> None:
        progress("verify", 100 * done / total if total else 100)

    try:
        verification.check(copy, report)
    except CopyError as error:
        raise CopyError(
            f"the copy {copy.stamp} is damaged and was not restored: {error.message}",
            hint=(
                "restore an older one (--copy previous); `vmbackup-admin verify VM` marks the "
                "damaged one"
            ),
        ) from None


def restore(site: Site, stamp: str, what: ImportPlan, progress: Progress) -> Restored:
    """Makes the VM. On any failure, and when it is interrupted, nothing of it is left.

    Raises what went wrong.
    """
    with own_folder(what.folder):
        try:
            _import(site, what, progress)
            machine = registered_in(site, what.folder)
            if machine is None:
                raise VBoxManageError(
                    (
                        f"VirtualBox says that it imported {what.name!r}, but has registered "
                        f"nothing in {what.folder}"
                    ),
                    hint="does VBoxSVC see that folder under the same path?",
                )
        except BaseException:
            remove_from(site, what.folder)
            raise
    log.info("restored %s as %s {%s}", stamp, what.name, machine.uuid)
    return Restored(what.name, machine.uuid, machine.settings_file, stamp)


def note(site: Site, key: str, done: Restored) -> None:
    """Writes to the database, and so to the log, what was restored.

    Raises what a commit raises: `NasError`, for one.
    """
    what = Restoration(done.stamp, site.node, done.name, done.uuid, timestamp(site.clock.now()))
    site.database.commit_once(
        lambda contents: copies.restored(contents, key, what),
        f"restore {key} {done.stamp} as {done.name}",
        "restore",
    )


def _import(site: Site, what: ImportPlan, progress: Progress) -> None:
    """Runs the import to its end, or cancels it.

    On whatever interrupts us, and when it stands still for `backup.stall_seconds`.
    """
    clock, limit = site.clock, site.configuration.backup.stall_seconds
    running = RunningImport(site.vboxmanage, what)
    try:
        seen, moved_at = (0, 0), clock.monotonic()
        while not running.poll():
            now = (running.progress(), running.written())
            if now != seen:
                seen, moved_at = now, clock.monotonic()
            elif clock.monotonic() - moved_at > limit:
                raise CopyError(
                    f"the import has not moved for {limit:.0f} s (at {now[0]} %) and was cancelled",
                    hint="look at the NAS",
                )
            progress("import", now[0])
            clock.sleep(_POLL_SECONDS)
    except BaseException:
        if not running.cancel(_CANCEL_SECONDS):
            log.warning(
                "VBoxManage does not cancel the import; VirtualBox may go on with it by itself"
            )
        raise
    running.result()


def _check_room(base: Path, needed: int) -> None:
    existing = next(parent for parent in (base, *base.parents) if parent.exists())
    room = shutil.disk_usage(existing).free
    if room < needed:
        raise CopyError(
            (
                f"there is no room for the VM in {base}: it needs about {human(needed)}, "
                f"{human(room)} are free"
            ),
            hint="make room, or restore to another place: --to DIRECTORY",
        )
