"""Restoring a copy as a new VM of this host.

Nothing that is there is overwritten, and what fails leaves nothing behind.

It needs the NAS for reading only and takes no claim, so that a VM can be restored whatever holds
its record up. The folder of the new VM is made here, exclusively, before VirtualBox is asked: so
what is in it is ours to remove. If this process is killed, VirtualBox goes on with the import by
itself, and the VM is there afterwards.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.copies import chronology
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.copies.side_files import member_names
from shared.copies.space import human
from shared.host.clock import timestamp
from shared.host.errors import CopyError, UsageError, VBoxManageError, VmBackupError
from shared.host.printable import quoted
from shared.site import Site
from shared.state.records import Restoration, VmRecord
from shared.state.rules import copies
from shared.tasks import verification, vm_copies
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.importing import ImportPlan, RunningImport, default_folder, refuse_unsafe
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)

#: Told what is being done (`verify`, `import`) and how far it is, in percent.
Progress = Callable[[str, float], None]

_CANCEL_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2
#: How long a folder that was removed must stay away, and how long that is waited for.
_QUIET_SECONDS: Final = 0.5
_GONE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Restored:
    """A VM that was made of a copy."""

    name: str
    uuid: str
    settings_file: str
    stamp: str


def choose(site: Site, record: VmRecord, which: str) -> Copy:
    """The copy that is meant: `latest` or `previous` of the good ones, or a stamp.

    Raises `CopyError` if there is none, `NasError`.
    """
    return look_for(site, record, which).copy


@dataclass(frozen=True, slots=True)
class Choice:
    """The copy that is meant. `doubt` says why it may be another one; empty: it is that one."""

    copy: Copy
    doubt: str = ""


def look_for(site: Site, record: VmRecord, which: str) -> Choice:
    """Like `choose`; says, too, if the signs disagree about which copy is `latest` or `previous`."""
    found = [copy for copy, _ in vm_copies.copies(site, record)]
    good = chronology.oldest_first(copy for copy in found if copy.good)
    if which in ("latest", "previous"):
        position = 1 if which == "latest" else 2
        if len(good) < position:
            raise CopyError(
                f"{record.key} has {'no good copy' if not good else 'only one good copy'}",
                hint=f"`vmbackup-admin copies {quoted(record.key)}` shows what there is",
            )
        return Choice(good[-position], _doubt(good[-position], good, which))
    copy = next((copy for copy in found if copy.stamp == which), None)
    if copy is None:
        raise CopyError(
            f"{record.key} has no copy {which!r}",
            hint=f"`vmbackup-admin copies {quoted(record.key)}` shows what there is",
        )
    return Choice(copy)


def _doubt(copy: Copy, good: list[Copy], which: str) -> str:
    rivals = chronology.rivals(copy, good)
    if not rivals:
        return ""
    return (
        f"it is not certain that {copy.stamp} is the {which} copy: number, time and order of "
        f"creation disagree about it and "
        f"{rivals[-1].stamp}; to take that one: --copy {rivals[-1].stamp}"
    )


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
    with _own_folder(what.folder):
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


def registered_in(site: Site, folder: Path) -> Machine | None:
    """The VM whose settings file is in `folder`; None if there is none. Raises `VBoxManageError`."""
    real = os.path.realpath(folder)
    machines = site.inventory().values()
    return next(
        (
            machine
            for machine in machines
            if os.path.realpath(os.path.dirname(machine.settings_file)) == real
        ),
        None,
    )


def remove_from(site: Site, folder: Path) -> None:
    """Removes what an import has left in a folder that was made for it, the VM included.

    What cannot be removed is reported.
    """
    try:
        machine = registered_in(site, folder)
        if machine is not None:
            BootCheck(site.vboxmanage, site.clock, machine).remove()
        if not _remove_for_good(site, folder):
            log.error("what was imported could not be removed from %s", folder)
    except VmBackupError as error:
        log.error(("what was imported could not be removed from %s: %s"), folder, error.message)  # noqa: TRY400 - an operator's message


def _remove_for_good(site: Site, folder: Path) -> bool:
    """Removes a folder until it stays away, and answers whether it does.

    VBoxSVC may still write settings when an import was cancelled.
    """
    end = site.clock.monotonic() + _GONE_SECONDS
    while os.path.lexists(folder):
        if site.clock.monotonic() > end:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        site.clock.sleep(_QUIET_SECONDS)
    return True


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


@contextlib.contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """Makes a folder that nobody else has, and its parents.

    Takes the empty ones away again if that fails in the end.
    """
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UsageError(
            f"{folder} is there already; a restore never overwrites anything",
            hint="another name (--as) or place (--to)",
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot make {folder}: {error.strerror}",
            hint="the owner of the VMs must be able to write there",
        ) from None
    try:
        yield
    except BaseException:
        for directory in (folder, *made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


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
