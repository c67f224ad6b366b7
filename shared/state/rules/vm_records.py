"""The records of VMs: finding one, its key, whether it is free, and forgetting it. Pure."""

from collections.abc import Iterable
from typing import Final

from shared.host.errors import (
    IllegalMoveError,
    LockedError,
    UnknownVmError,
    UnusableRecordError,
    UsageError,
)
from shared.host.printable import printable, quoted
from shared.state.contents import Contents
from shared.state.hold import require_unheld
from shared.state.records import VmRecord
from shared.state.rules import unfinished
from shared.state.states import FORGETTABLE

#: Of a UUID as VirtualBox writes it.
_UUID_LENGTH: Final = 36


def find(contents: Contents, key: str) -> VmRecord:
    """The record of `key`, and of nothing else: a VM may be called like the UUID of another one.

    Raises `UnknownVmError` that names similar ones, and `UnusableRecordError` if it does not fit.
    """
    if (record := contents.vms.get(key)) is not None:
        return record
    if row := contents.unusable_row("vms", key):
        raise UnusableRecordError(
            row.message,
            hint=(
                f"if no newer program wrote it, `vmbackup-admin forget {quoted(key)}` deletes it, "
                f"and the next vmfind finds the VM again; no copy is touched"
            ),
        )
    similar = similar_names(key, contents.vms)
    raise UnknownVmError(
        f"there is no VM {key!r} in the state database",
        hint=f"did you mean {' or '.join(map(quoted, similar))}?"
        if similar
        else "`vmbackup-admin status` lists all VMs",
    )


def meant(contents: Contents, text: str) -> VmRecord:
    """The record of the VM that a person means by `text`: its key, or its UUID.

    Raises what `find` raises, and `UsageError` if one VM is called like the UUID of another one.
    """
    record, by_uuid = contents.vms.get(text), _of_uuid(contents, text)
    if record is not None and by_uuid is not None and by_uuid.key != record.key:
        raise UsageError(
            f"{text} is the name of one VM and the UUID of another one",
            hint=f"the first one has the UUID {record.uuid}, the name of the other one is "
            f"{printable(by_uuid.key)}: take that",
        )
    return by_uuid or find(contents, text)


def similar_names(name: str, known: Iterable[str]) -> list[str]:
    """Which names somebody may have meant, the most likely first, at most three."""
    import difflib  # only here: it is large, and hardly ever is a name wrong

    folded: dict[str, str] = {}
    for each in sorted(known):
        folded.setdefault(each.casefold(), each)
    wanted = name.casefold()
    close = difflib.get_close_matches(wanted, folded, n=3, cutoff=0.6)
    alike = [each for each in folded if wanted and each.startswith(wanted[:3])]
    return [folded[each] for each in dict.fromkeys((*close, *alike))][:3]


def _of_uuid(contents: Contents, text: str) -> VmRecord | None:
    """The record of the VM with this UUID, in letters of any size."""
    if len(text) != _UUID_LENGTH:
        return None
    wanted = text.lower()
    return next((vm for vm in contents.vms.values() if vm.uuid.lower() == wanted), None)


def free_key(contents: Contents, name: str, node: str, uuid: str) -> str:
    """The key of a VM: its name; if that is taken `name@node`; if that is, too, with the UUID."""
    return next(
        key
        for key in (name, f"{name}@{node}", f"{name}@{node}#{uuid}")
        if key not in contents.vms and contents.unusable_row("vms", key) is None
    )


def require_free(record: VmRecord) -> None:
    """Raises `LockedError` when somebody works on the VM, saying who, for what, and since when."""
    if record.claim is not None:
        raise LockedError(
            (
                f"{record.key} is locked: {record.claim.purpose} by session {record.claim.session} "
                f"since {record.claim.since}"
            ),
            hint=f"wait for it, or look at it: vmbackup-lock show {quoted(record.claim.session)}",
        )


def require_untouched(record: VmRecord) -> None:
    """Raises `LockedError` while what a backup that died did to the VM has not been undone."""
    if record.power is not None:
        raise LockedError(
            (
                f"{record.key} is not yet as a backup found it ({record.power.method}, it was "
                f"{record.power.found})"
            ),
            hint=unfinished.finished_by(record),
        )


def require_finished(record: VmRecord) -> None:
    """Raises `LockedError` while something of it is unfinished that forbids to hold its copies."""
    if record.publishing or record.moving or record.power:
        raise LockedError(
            f"{record.key}: what a crashed worker began has to be finished first",
            hint=unfinished.finished_by(record),
        )


def forget(contents: Contents, key: str) -> Contents:
    """Deletes a record; its copies stay.

    Raises `IllegalMoveError` or `LockedError` while somebody works on the VM, or runs from a copy
    of it.
    """
    if key not in contents.vms and contents.unusable_row("vms", key):
        return contents.without_unusable("vms", key)
    record = find(contents, key)
    require_free(record)
    require_untouched(record)
    require_unheld(record.key, record.holds, "it cannot be forgotten")
    if record.status not in FORGETTABLE:
        raise IllegalMoveError(
            f"{key} is {record.status} and cannot be forgotten",
            hint="wait until the backup has ended",
        )
    return contents.without_vm(record.key)
