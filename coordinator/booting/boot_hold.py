"""The hold of the copy that a VM runs from, as record and sidecars tell of it."""

import contextlib

from coordinator.booting.identity import require_same
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.host.errors import CopyError, IllegalMoveError, LockedError
from shared.ova.disk_reader import open_copy
from shared.site import Site
from shared.state.contents import Contents
from shared.state.hold import Hold
from shared.state.records import VmRecord
from shared.state.rules import vm_records
from shared.state.rules.holds import Held
from shared.tasks import copy_hold, finding_unlisted, vm_copies
from shared.tasks.boot_note import BootNote


def place(site: Site, record: VmRecord, note: BootNote) -> None:
    """Holds the copy for the VM; the same again changes nothing. Raises like `copy_hold.place`."""
    copy_hold.place(site, record, note.stamp, name=note.name, index=note.index, uuid=note.uuid)


def is_here(site: Site, note: BootNote) -> bool:
    """Whether its hold is in this repository, or else the very copy that it runs from.

    That is so after the database was made anew. Raises `NasError`.
    """
    if _of(site, note):
        return True
    contents = site.database.head().contents
    records = (*contents.vms.values(), *finding_unlisted.find(site, contents).records)
    return any(
        copy.stamp == note.stamp and _is_same(copy, note)
        for record in records
        if record.uuid == note.vm
        for copy in vm_copies.in_all_places(site, record)
    )


def end(site: Site, note: BootNote) -> None:
    """Lets go of the copy. When this returns, that is noted wherever a hold of the VM stood.

    May be repeated. Raises `NasError` if record or sidecars cannot be looked at, and what a commit
    raises.
    """
    for held in _of(site, note):
        copy_hold.end(site, held)


def discarded(site: Site, note: BootNote) -> None:
    """The same for a VM that is not there any more: its record goes, too, as it has no copy.

    Else it would be shown as missing from now on.
    """
    end(site, note)

    def change(contents: Contents) -> Contents:
        record = _own_record(contents, note)
        return vm_records.forget(contents, record.key) if record is not None else contents

    if _own_record(site.database.head().contents, note) is not None:
        with contextlib.suppress(IllegalMoveError, LockedError):  # somebody works on it
            site.database.commit_once(change, f"discard {note.name}", "boot")


def _own_record(contents: Contents, note: BootNote) -> VmRecord | None:
    own = (vm for vm in contents.vms.values() if vm.uuid == note.uuid and not vm.last_copy)
    return next(own, None)


def _of(site: Site, note: BootNote) -> list[Held]:
    """The holds that are those of this VM, also if only a sidecar tells of one."""
    contents = site.database.head().contents
    found = copy_hold.named(site, contents, f"{site.node}:{note.name}")
    record = next((vm for vm in contents.vms.values() if vm.uuid == note.vm), None)
    if record is not None:
        copies = vm_copies.in_all_places(site, record)
        found += [Held(record, hold) for copy in copies for hold in copy.holds]
    ours = [each for each in found if each.uuid == note.vm and _is_of(each.hold, site.node, note)]
    return ours[-1:]  # of one copy, and of one VM: it is the same one


def _is_same(copy: Copy, note: BootNote) -> bool:
    try:
        with open_copy(copy.directory / final_name(copy.stamp, "ova")) as reader:
            require_same(reader, copy.sidecar.sha256 if copy.sidecar else "", note)
    except CopyError:
        return False
    return True


def _is_of(hold: Hold, node: str, note: BootNote) -> bool:
    same = (hold.node, hold.name, hold.stamp) == (node, note.name, note.stamp)
    return same and hold.uuid in ("", note.uuid)
