"""Claims: the right of one session to work on one VM, given, checked, and taken back.

What becomes of the claims of sessions that are over is in `expiry`.

Pure, like all rules: a transaction is run again after a lost race, and the model checker searches
through them.

A change that only the holder of a claim may make takes that `Claim` and raises `LockLostError` when
the VM's record has another one by now.
"""

from dataclasses import replace
from typing import Literal

from shared.host.errors import IllegalMoveError, LockLostError
from shared.state.contents import Contents
from shared.state.numbers import believable, next_number
from shared.state.records import Claim, VmRecord
from shared.state.rules import outages, queue, vm_records
from shared.state.states import IN_FLIGHT, Event, State, move


def grant(
    contents: Contents,
    key: str,
    session: str,
    purpose: Literal["backup", "archive", "activate", "publish", "power", "verify", "pin", "prune"],
    when: str,
    *,
    limit: int = 0,
    floor: int = 0,
) -> Contents:
    """Gives a VM to a session. For a backup this makes it BACKUP_IN_PROGRESS.

    Raises `LockedError` if somebody holds it. The claim's number is above all that were given out,
    and above `floor`: the highest that stands in the names of the VM's files.

    With a `limit`, raises `TooManyExportsError` if so many backups are claimed already, of all
    hosts, or VMs that wait longer come first (`shared.state.rules.queue`): being part of the
    transaction, the limit is exact.
    """
    record = vm_records.find(contents, key)
    vm_records.require_free(record)
    if limit:
        queue.require_slot(contents, key, limit)
    number = next_number(contents.claims_granted, floor)
    status = record.status
    if purpose == "backup":
        status = move(status, Event.CLAIMED)
    elif purpose == "publish" and record.publishing is None:
        raise IllegalMoveError(f"{key}: there is no copy to be put in place")
    elif purpose == "power" and record.power is None:
        raise IllegalMoveError(f"{key}: its power state is as it was found")
    elif purpose in ("verify", "pin", "prune"):
        vm_records.require_finished(record)
    granted = Claim(session, number, purpose, when)
    if purpose == "backup":
        record = replace(record, waiting="", queued=None)
    return replace(contents, claims_granted=number).with_vm(
        replace(record, claim=granted, status=status)
    )


def held(contents: Contents, key: str, own: Claim) -> VmRecord:
    """The record of `key` if `own` still holds it. Raises `LockLostError` otherwise."""
    record = _holder(contents, own)
    if record is None:
        now = contents.vms.get(key)
        noted = now is not None and now.last_failed_claim == own.number
        why = f": {now.last_error} ({now.last_error_at})" if now is not None and noted else ""
        raise LockLostError(
            f"{key}: claim {own.number} was taken away{why}",
            hint="whoever has the VM next goes on with it",
        )
    return record


def is_held(contents: Contents, own: Claim) -> bool:
    """Whether `own` still holds its VM."""
    return _holder(contents, own) is not None


def _holder(contents: Contents, own: Claim) -> VmRecord | None:
    """The VM that `own` holds, whatever it is called by now."""
    return next(
        (
            record
            for record in contents.vms.values()
            if record.claim is not None
            and (record.claim.number, record.claim.session) == (own.number, own.session)
        ),
        None,
    )


def claimed_by(contents: Contents, session: str) -> tuple[VmRecord, Claim]:
    """The VM that a session holds, whatever it is called by now.

    Raises `LockLostError` if it holds none.
    """
    for record in contents.vms.values():
        if record.claim is not None and record.claim.session == session:
            return record, record.claim
    raise LockLostError(
        f"the claim of session {session} was taken over as soon as it was made",
        hint="the next tick tries again",
    )


def release(
    contents: Contents, key: str, own: Claim, *, leftovers: bool = False, when: str = ""
) -> Contents:
    """Gives up a claim that did not change the state.

    `leftovers`: it may have left partial files, at `when`, which the next database worker removes.
    Raises `IllegalMoveError` if that would leave the VM in flight with nobody on it.
    """
    record = held(contents, key, own)
    if record.status in IN_FLIGHT and record.publishing is None:
        raise IllegalMoveError(f"{key}: a backup ends by being published or by having failed")
    record = replace(record, claim=None)
    return contents.with_vm(untidy(record, when) if leftovers else record)


def abandoned(record: VmRecord, reason: str, when: str, *, failed: bool = True) -> VmRecord:
    """`record` without its claim: a backup under it counts as failed.

    Unless its copy is being put in place, which will be finished. One that was interrupted, and not
    `failed`, is remembered and not counted.
    """
    claim = record.claim
    if claim is None or record.publishing is not None or record.status != State.BACKUP_IN_PROGRESS:
        return replace(record, claim=None)
    return replace(
        outages.counted(record, when),
        claim=None,
        status=move(record.status, Event.FAILED),
        failures=record.failures + failed,
        last_error=reason,
        last_error_at=when,
        last_failed_claim=claim.number if failed else record.last_failed_claim,
    )


def untidy(record: VmRecord, when: str) -> VmRecord:
    """`record`, noting that partial files of it may be left since `when`, or longer."""
    since = record.leftovers_since if record.leftovers else when
    return replace(record, leftovers=True, leftovers_since=since)


def break_claim(contents: Contents, key: str, number: int, reason: str, when: str) -> Contents:
    """Takes claim `number` on a VM away from its session, which is refused at its next step.

    Changes nothing if it is over already. An intent to publish stays: whoever comes next finishes
    it.
    """
    record = contents.vms.get(key)
    if record is None or record.claim is None or record.claim.number != number:
        return contents
    return contents.with_vm(untidy(abandoned(record, reason, when), when))


def raise_numbers(contents: Contents, floor: int) -> Contents:
    """From now on claims have numbers above `floor`, if that can be believed."""
    return (
        replace(contents, claims_granted=floor)
        if believable(floor) and floor > contents.claims_granted
        else contents
    )
