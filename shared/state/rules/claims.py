"""Claims: the right of one session to work on one VM, given, checked, and taken back.

Also what becomes of the claims of sessions that are over.

Pure, like all rules: a transaction is run again after a lost race, and the model checker searches
through them.

A change that only the holder of a claim may make takes that `Claim` and raises `LockLostError` when
the VM's record has another one by now.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from shared.host.errors import IllegalMoveError, LockedError, LockLostError
from shared.state.contents import Contents
from shared.state.numbers import believable, next_number
from shared.state.records import Claim, SessionRecord, VmRecord
from shared.state.rules import outages, queue, unfinished, vm_records
from shared.state.states import IN_FLIGHT, INITIAL, Event, State, move


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
    elif purpose in ("verify", "pin", "prune") and (
        record.publishing or record.moving or record.power
    ):
        raise LockedError(
            f"{key}: what a crashed worker began has to be finished first",
            hint=unfinished.finished_by(record),
        )
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
        raise LockLostError(
            f"{key}: claim {own.number} was taken over",
            hint="whoever took it over goes on with this VM",
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
    return contents.with_vm(_untidy(record, when) if leftovers else record)


def abandoned(record: VmRecord, reason: str, when: str) -> VmRecord:
    """`record` without its claim: a backup under it counts as failed.

    Unless its copy is being put in place, which will be finished.
    """
    claim = record.claim
    if claim is None or record.publishing is not None or record.status != State.BACKUP_IN_PROGRESS:
        return replace(record, claim=None)
    return replace(
        outages.counted(record, when),
        claim=None,
        status=move(record.status, Event.FAILED),
        failures=record.failures + 1,
        last_error=reason,
        last_error_at=when,
        last_failed_claim=claim.number,
    )


def _untidy(record: VmRecord, when: str) -> VmRecord:
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
    return contents.with_vm(_untidy(abandoned(record, reason, when), when))


def expire(contents: Contents, sessions: Iterable[str], reason: str, when: str) -> Contents:
    """Declares sessions dead and frees what they held; what they had taken in goes.

    A VM whose copy was being put in place stays claimable for finishing that.
    """
    for identifier in sessions:
        row = contents.sessions.get(identifier)
        if row is None or row.state != "live":
            continue
        contents = contents.with_session(tombstone(row, "expired"))
        contents = _without_claims_of(contents, identifier, reason, when)
    return without_abandoned(contents)


def remove_row(contents: Contents, session: str, reason: str, when: str) -> Contents:
    """Removes the row of a session that does not fit, and frees what that held, as `expire` does.

    If its process lives, it is refused at its next step.
    """
    contents = contents.without_unusable("sessions", session)
    return without_abandoned(_without_claims_of(contents, session, reason, when))


def free_ownerless(contents: Contents, reason: str, when: str) -> Contents:
    """Frees what sessions hold that are over or have no row, as `expire` does.

    Each claim is committed together with the row of its session, and a live one's row stays: so
    whoever still works under such a claim is refused at its next step, as if it had been expired.
    """
    for identifier in ownerless(contents):
        contents = _without_claims_of(contents, identifier, reason, when)
    return contents


def ownerless(contents: Contents) -> list[str]:
    """The sessions that hold VMs and are over, or have no row: nobody ends them any more."""
    holders = {record.claim.session for record in contents.vms.values() if record.claim}
    return sorted(holder for holder in holders if not may_live(contents, holder))


def may_live(contents: Contents, session: str) -> bool:
    """Whether the session is not over, as far as its row tells.

    A row that does not fit does not tell: a newer program may have written it.
    """
    row = contents.sessions.get(session)
    if row is not None:
        return row.state == "live"
    return any(odd.section == "sessions" and odd.key in (session, "") for odd in contents.unusable)


def _without_claims_of(contents: Contents, session: str, reason: str, when: str) -> Contents:
    for record in contents.vms.values():
        if record.claim is not None and record.claim.session == session:
            contents = contents.with_vm(_untidy(abandoned(record, reason, when), when))
    return contents


def tombstone(row: SessionRecord, state: Literal["ended", "expired"]) -> SessionRecord:
    """What is remembered of a session that is over: enough to tell it what it had committed."""
    return SessionRecord(row.id, row.sequence, row.generation, state, row.node, row.worker)


def without_leftovers(contents: Contents, keys: Iterable[str]) -> Contents:
    """Notes that nothing of dead sessions is left in the directories of these VMs."""
    for key in keys:
        if key in contents.vms and contents.vms[key].leftovers:
            tidy = replace(contents.vms[key], leftovers=False, leftovers_since="")
            contents = contents.with_vm(tidy)
    return without_abandoned(contents)


def without_abandoned(contents: Contents) -> Contents:
    """Without the records that were taken in by sessions which are over.

    One on which something has to be finished stays. One that became more than NEW meanwhile, which
    an older program does to it, is an ordinary one from then on, by the name of its VM.
    """
    for record in contents.vms.values():
        if not record.taken_in_by or may_live(contents, record.taken_in_by):
            continue
        if is_untouched(record):
            contents = contents.without_vm(record.key)
        elif record.status != INITIAL and record.claim is None:
            rest = contents.without_vm(record.key)
            key = vm_records.free_key(rest, record.name, record.node, record.uuid)
            contents = rest.with_vm(replace(record, key=key, taken_in_by=""))
    return contents


def is_untouched(record: VmRecord) -> bool:
    """Whether a record that was taken in is as it was made: nobody works on it, or has begun to."""
    begun = record.claim or record.publishing or record.moving or record.power or record.leftovers
    return not begun and record.status == INITIAL


def raise_numbers(contents: Contents, floor: int) -> Contents:
    """From now on claims have numbers above `floor`, if that can be believed."""
    return (
        replace(contents, claims_granted=floor)
        if believable(floor) and floor > contents.claims_granted
        else contents
    )
