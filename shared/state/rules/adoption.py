"""What is taken over into the database: one of version 1.0, and edits of `vmtool-statedb`. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from shared.host.errors import IllegalMoveError
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import vm_records
from shared.state.states import State


def adopt_old(contents: Contents, old: Mapping[str, State], when: str) -> Contents:
    """Adds the VMs of a database of version 1.0.

    None of them is taken to have a copy: that database knew none.
    """
    for name, status in old.items():
        if name not in contents.vms:
            state = State.BACKUP_NECESSARY if status == State.BACKUP_IN_PROGRESS else status
            contents = contents.with_vm(VmRecord(name, name, "", "", "", state, found=when))
    return contents


def adopt_edit(contents: Contents, edited: Mapping[str, State], when: str) -> Contents:
    """Takes over what an operator wrote into `vmtool-statedb`, as far as it makes sense.

    A state may be set to any state but BACKUP_IN_PROGRESS (and CLEAN only where there is a copy); a
    VM that somebody works on is left alone (`LockedError`); a line that was removed forgets
    nothing; a name that is unknown is an `UnknownVmError`.
    """
    for key, status in edited.items():
        record = vm_records.find(contents, key)
        if record.status == status:
            continue
        vm_records.require_free(record)
        if (
            status == State.BACKUP_IN_PROGRESS
            or (status == State.CLEAN and record.last_copy is None)
            or record.publishing is not None
        ):
            raise IllegalMoveError(
                f"{key} cannot be made {status} by hand (it is {record.status})",
                hint="BACKUP_NECESSARY makes a backup worker copy it",
            )
        if State.ARCHIVED in (status, record.status):
            raise IllegalMoveError(
                f"{key}: copies must move with that state",
                hint=f"vmbackup-admin archive|activate {key}",
            )
        contents = contents.with_vm(
            replace(record, status=status, last_error=f"state set by hand on {when}")
        )
    return contents
