"""Sessions that are over: declared dead, and what they held is freed. Pure, like all rules."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Literal

from shared.state.contents import Contents
from shared.state.host_records import SessionRecord
from shared.state.records import VmRecord
from shared.state.rules import claims, vm_records
from shared.state.states import INITIAL


def expire(
    contents: Contents,
    sessions: Iterable[str],
    reason: str,
    when: str,
    *,
    failed: bool = True,
    tidied: Collection[int] = (),
    found_on: str = "",
) -> Contents:
    """Declares sessions dead and frees what they held; what they had taken in goes.

    A VM whose copy was being put in place stays claimable for finishing that. Backups count as
    failures unless they were interrupted on purpose, and did not fail (`failed`). Of the claims
    `tidied` no partial file is left: who held them says so. `found_on`: the host that says that
    they are dead; empty if `reason` tells it.
    """
    over = f"{reason} ({f'found on {found_on}, ' if found_on else ''}{when})"
    for identifier in sessions:
        row = contents.sessions.get(identifier)
        if row is None or row.state != "live":
            continue
        contents = contents.with_session(replace(tombstone(row, "expired"), over=over))
        contents = _without_claims_of(
            contents, identifier, reason, when, failed=failed, tidied=tidied
        )
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
    sessions = {record.claim.session for record in contents.vms.values() if record.claim}
    return sorted(session for session in sessions if not may_live(contents, session))


def may_live(contents: Contents, session: str) -> bool:
    """Whether the session is not over, as far as its row tells.

    A row that does not fit does not tell: a newer program may have written it.
    """
    row = contents.sessions.get(session)
    if row is not None:
        return row.state == "live"
    return any(odd.section == "sessions" and odd.key in (session, "") for odd in contents.unusable)


def _without_claims_of(
    contents: Contents,
    session: str,
    reason: str,
    when: str,
    *,
    failed: bool = True,
    tidied: Collection[int] = (),
) -> Contents:
    for record in contents.vms.values():
        if record.claim is not None and record.claim.session == session:
            left = claims.abandoned(record, reason, when, failed=failed)
            is_tidy = record.claim.number in tidied
            contents = contents.with_vm(left if is_tidy else claims.untidy(left, when))
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
    """Whether a record that was taken in is as it was made: nobody works on it, or holds a copy."""
    begun = record.claim or record.publishing or record.moving or record.power or record.leftovers
    return not (begun or record.holds) and record.status == INITIAL
