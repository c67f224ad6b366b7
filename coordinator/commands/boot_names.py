"""What an operator means by the names that `vmbackup-admin boot` takes."""

import contextlib
from pathlib import Path

from coordinator import vm_argument
from coordinator.booting import boot_hold, locks, machines, mounts, removing
from shared.host.errors import UnknownVmError, UsageError
from shared.host.printable import option, quoted
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.tasks import boot_done, boot_note
from shared.tasks.boot_done import DoneBoot
from shared.tasks.boot_note import BootNote
from shared.tasks.boot_remedies import going_on


def original(site: Site, text: str) -> VmRecord:
    """The VM that has the copies. Raises like `vm_argument.choose`.

    Raises `UsageError` for one that runs from a copy itself, and has none of its own.
    """
    notes = list(boot_note.all_of(site.configuration.host.state_directory))
    contents = site.database.head().contents
    try:
        record = vm_argument.choose(site, contents, text)
    except UnknownVmError:
        for note in notes:
            if text in (note.name, note.uuid):
                raise _runs_itself(contents, note) from None
        raise
    for note in notes:
        if note.uuid == record.uuid:
            raise _runs_itself(contents, note)
    return record


def noted(
    site: Site, name: str, looking: contextlib.ExitStack, *, dry_run: bool
) -> BootNote | None:
    """What runs under that name; nobody else begins anything until `looking` is closed.

    Raises `LockedError` if its server does not answer.
    """
    state = site.configuration.host.state_directory
    if not dry_run:
        looking.enter_context(locks.beginning(state))
    note = boot_note.named(state, name)
    if note is not None:
        _require_ours(site, note, "; or give the new one another name: --as NAME")
        mounts.require_answer(note)
    return note if note is None or dry_run else removing.after_a_crash(site, note)


def begun(site: Site, name: str) -> BootNote:
    """What was begun under that name.

    Raises `UnknownVmError`, and `LockedError` if its server does not answer.
    """
    state = site.configuration.host.state_directory
    note = boot_note.named(state, name)
    if note is None:
        others = ", ".join(quoted(each.name) for each in boot_note.all_of(state)) or "none"
        was = next((f", {each.when}" for each in boot_done.named(state, name)), "")
        raise UnknownVmError(
            f"no VM {name!r} runs from a copy on this host"
            + (f": it was made an ordinary VM{was}" if was else ""),
            hint=f"those that do: {others}. One that was filled, and off, is an ordinary VM by "
            "now, and is removed like any other, in VirtualBox",
        )
    _require_ours(site, note)
    mounts.require_answer(note)
    return note


def done(site: Site, name: str) -> tuple[DoneBoot, Path] | None:
    """The ordinary VM that ran from a copy under that name, and where it lies; else None.

    None as well if one of that name runs from a copy now. Raises `VBoxManageError`.
    """
    if boot_note.named(site.configuration.host.state_directory, name) is not None:
        return None
    return machines.done(site, name)


def _runs_itself(contents: Contents, note: BootNote) -> UsageError:
    known = contents.vms.get(note.key)
    # forgotten since, it has that name no more; its UUID goes on meaning it
    vm = note.key if known is not None and known.uuid == note.vm else note.vm
    finish, discard = (option(way, note.name) for way in ("--finish", "--discard"))
    return UsageError(
        f"{note.name!r} has no copies: it runs itself from the copy {note.stamp} of {note.key}",
        hint=f"to go on with it: {going_on(note.name, vm)}; to make an ordinary VM of it: "
        f"vmbackup-admin boot {finish}; to throw it away: vmbackup-admin boot {discard}",
    )


def _require_ours(site: Site, note: BootNote, otherwise: str = "") -> None:
    """Raises `UsageError` if it runs from a copy in another repository, which has its hold.

    `otherwise`: what else may be done, for the hint.
    """
    same = note.repository in ("", site.database.version.repository)
    if not same and not boot_hold.is_here(site, note):
        raise UsageError(
            f"{note.name!r} runs from a copy of {note.key} in the repository {note.repository}, "
            "and not in that of this configuration",
            hint=f"give the configuration with that NAS: --config FILE{otherwise}",
        )
