"""Whether a VM of this host can be taken back in place as it is now; why not, and what to do."""

from collections.abc import Sequence
from typing import Final

from shared.copies.catalogue import Copy
from shared.host.errors import IllegalMoveError, UsageError, VBoxManageError
from shared.host.printable import option, quoted
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.states import State
from shared.tasks import finding_unlisted
from shared.virtualbox.fingerprint import Fingerprint, differences, fingerprint_of
from shared.virtualbox.inventory import Machine

_INSTEAD: Final = "restore the copy beside it: `vmbackup-admin restore --as NAME {}`"


def require_machine(site: Site, record: VmRecord) -> Machine:
    """The VM itself, which is off, on this host, and of a kind that can be taken back.

    Raises `UsageError`, `IllegalMoveError`, `VBoxManageError`.
    """
    if not finding_unlisted.is_listed(record):
        raise UsageError(
            f"the database has no record of {record.key}: there is no VM to be taken back",
            hint=restore_instead(record),
        )
    if record.status == State.ARCHIVED:
        raise IllegalMoveError(
            f"{record.key} is {record.status}",
            hint=f"vmbackup-admin activate {quoted(record.key)}, or {restore_instead(record)}",
        )
    machine = site.machine(record.uuid)
    if machine is None:
        raise UsageError(
            f"this host has no VM {{{record.uuid}}}, which is {record.key} of "
            f"{record.node or 'an unknown host'}",
            hint=f"give the command on that host, or {restore_instead(record)}",
        )
    require_off(machine, record)
    return machine


def require_off(machine: Machine, record: VmRecord) -> None:
    """Raises `VBoxManageError` if it cannot be used, `IllegalMoveError` unless it is quite off."""
    if machine.settings is None or not machine.accessible:
        raise VBoxManageError(f"{record.key}: {machine.reason}")
    settings, why = machine.settings, ""
    if machine.running:
        why = f"it is {machine.state or 'running'}"
        hint = "shut it down first"
    elif settings.state_file:
        why = "it is saved"
        hint = f"its memory does not fit to other disks: VBoxManage discardstate {machine.uuid}"
    elif machine.opened:
        why = "it is open in VirtualBox"
        hint = "close its settings, or wait until it has stopped"
    elif settings.snapshots or settings.snapshot:
        why = "it has snapshots"
        hint = f"delete them in VirtualBox, or {restore_instead(record)}"
    if why:
        raise IllegalMoveError(f"{record.key} cannot be taken back in place: {why}", hint=hint)


def changed_since(machine: Machine, newest: Copy | None) -> tuple[str, ...]:
    """What happened to the VM since this copy, its newest good one; empty: nothing."""
    if newest is None or newest.sidecar is None:
        return ("it has no good copy",)
    then = {str(name): str(value) for name, value in newest.sidecar.fingerprint.items()}
    if not then:
        return (f"what it was at its newest copy {newest.stamp} is not known",)
    return differences(Fingerprint.from_json(then), fingerprint_of(machine))


def refuse_changed(record: VmRecord, changes: Sequence[str]) -> None:
    """Raises `IllegalMoveError` that says that the present state is in no copy."""
    raise IllegalMoveError(
        f"{record.key} has changed since its newest good copy: {', '.join(changes)}",
        hint=f"back it up first (`vmbackup-worker backup {option('--vm', record.key)} --now`); or "
        "give --discard-present-state: what it is now is lost with its old disks then",
    )


def restore_instead(record: VmRecord) -> str:
    """What can be done instead, for a hint."""
    return _INSTEAD.format(quoted(record.key))
