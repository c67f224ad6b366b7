"""Copies that somebody reads for long, such as a mount: they stay where they are meanwhile. Pure.

What is read is said by the row of the reader's session, so it ends with that, also after a crash.
"""

from typing import Final

from shared.host.errors import LockedError
from shared.state.contents import Contents
from shared.state.host_records import SessionRecord
from shared.state.records import VmRecord

#: The sessions that rehearse copies are called so.
REHEARSER: Final = "rehearse"
#: What holds a VM while its copies may be removed or moved. A backup lets older ones go, too, while
#: its copy is being put in place (`record.publishing`).
_REMOVING = ("prune", "archive", "activate")


def begin(contents: Contents, row: SessionRecord, *, alone: bool = False) -> Contents:
    """With the row of a session that reads the copy which `row.reads` names.

    Raises `LockedError` while copies of that VM are being moved or removed; `alone`: also while
    one of them is being rehearsed.
    """
    uuid, _, stamp = row.reads.partition("/")
    if alone and any(other.id != row.id for other in rehearsers(contents, uuid)):
        raise LockedError(
            "one of its copies is being rehearsed", hint="`vmbackup-lock list` shows where"
        )
    for record in contents.vms.values():
        if record.uuid.lower() == uuid.lower():
            require_staying(record, stamp)
    return contents.with_session(row)


def require_staying(record: VmRecord, stamp: str) -> None:
    """Raises `LockedError` while copies of the VM are being moved or removed."""
    removing = record.claim is not None and record.claim.purpose in _REMOVING
    if record.moving or record.publishing or removing:
        raise LockedError(
            f"{record.key}: its copies are being moved or removed, {stamp} perhaps with them",
            hint="try again when that is done: `vmbackup-lock list` shows it",
        )


def readers(contents: Contents, uuid: str) -> dict[str, SessionRecord]:
    """The stamps of a VM's copies that are being read, and by which session."""
    found = {}
    for row in contents.sessions.values():
        vm, _, stamp = row.reads.partition("/")
        if row.state == "live" and stamp and vm.lower() == uuid.lower():
            found[stamp] = row
    return found


def rehearsers(contents: Contents, uuid: str) -> list[SessionRecord]:
    """The live sessions that rehearse a copy of a VM."""
    return [
        row
        for row in contents.sessions.values()
        if (row.state, row.worker) == ("live", REHEARSER)
        and row.reads.partition("/")[0].lower() == uuid.lower()
    ]


def require_unread(contents: Contents, uuid: str, stamp: str = "") -> None:
    """Raises `LockedError` if somebody reads that copy of the VM, or any of its copies."""
    for read, row in readers(contents, uuid).items():
        if stamp in ("", read):
            raise LockedError(
                f"the copy {read} is being read by session {row.id} ({row.worker})",
                hint="wait until its rehearsal has ended: `vmbackup-lock list` shows it"
                if row.worker == REHEARSER
                else f"on {row.node}: vmbackup-admin umount DIR; `vmbackup-lock list` shows it",
            )
