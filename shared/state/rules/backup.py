"""A backup, step by step: the VM is touched, its copy is intended and published, or not. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from shared.host.errors import IllegalMoveError
from shared.state.contents import Contents
from shared.state.records import Claim, CopyRecord, Power, VmRecord
from shared.state.rules import claims, outages
from shared.state.states import Event, State, move


def touch(contents: Contents, key: str, own: Claim, power: Power) -> Contents:
    """Notes what is about to be done to the VM, so that it can be undone after a crash.

    If that stops the VM, the claim notes an outage, which counts if no copy comes of it.
    """
    record = claims.held(contents, key, own)
    claim = (
        replace(record.claim, outage=True)
        if record.claim and power.method in outages.OUTAGES
        else record.claim
    )
    return contents.with_vm(replace(record, power=power, claim=claim))


def intend(contents: Contents, key: str, own: Claim, copy: CopyRecord) -> Contents:
    """Notes that a verified copy is being put in place.

    From here on it will be, by its worker or by whoever finds it.
    """
    record = claims.held(contents, key, own)
    return contents.with_vm(replace(record, publishing=_counted(copy, record.last_copy)))


def _counted(copy: CopyRecord, before: CopyRecord | None) -> CopyRecord:
    """The copy, which says how many in a row were not made by the engine that was wanted."""
    if copy.other_engine is None or before is None or before.other_engine is None:
        return copy
    copies = before.other_engine.copies + 1
    return replace(copy, other_engine=replace(copy.other_engine, copies=copies))


def published(
    contents: Contents,
    key: str,
    own: Claim,
    order_unknown: tuple[str, ...] = (),
    event: Event = Event.PUBLISHED,
) -> Contents:
    """The copy of `intend` is in place: the VM is CLEAN. `order_unknown`: see `VmRecord`.

    `event` is another one if the VM was used since the moment of which its copy is.
    """
    record = claims.held(contents, key, own)
    if record.publishing is None:
        raise IllegalMoveError(f"{key}: there is no copy to be put in place")
    return contents.with_vm(
        replace(
            record,
            status=move(record.status, event),
            last_copy=record.publishing,
            backed_up=record.publishing.finished,
            publishing=None,
            claim=None,
            failures=0,
            last_error="",
            last_error_at="",
            last_failed_claim=0,
            outages_failed=0,
            next_outage="",
            verified=_verified(record, record.publishing),
            order_unknown=order_unknown,
        )
    )


def _verified(record: VmRecord, copy: CopyRecord) -> str:
    """When the longest unread copy was read. Empty, with older copies: one has to be read now."""
    return record.verified if record.verified or record.last_copy else copy.finished


def failed(contents: Contents, key: str, own: Claim, error: str, when: str) -> Contents:
    """The backup did not succeed: BACKUP_NECESSARY again, at the back of the queue."""
    record = replace(claims.held(contents, key, own), publishing=None)
    return contents.with_vm(claims.abandoned(record, error, when))


def found_running(contents: Contents, key: str, own: Claim, when: str) -> Contents:
    """The VM runs, which is no failure: it waits until it stops.

    One that was asked to shut down and did not is left alone for a while. Raises `IllegalMoveError`
    when a copy is being put in place already.
    """
    record = claims.held(contents, key, own)
    if record.publishing is not None:
        raise IllegalMoveError(f"{key}: its copy {record.publishing.stamp} is being put in place")
    return contents.with_vm(
        replace(
            outages.counted(record, when),
            status=move(record.status, Event.FOUND_RUNNING),
            claim=None,
        )
    )


def postponed(contents: Contents, key: str, own: Claim, reason: str, when: str) -> Contents:
    """The backup has to wait: no failure, and the VM keeps its place in the queue."""
    record = outages.counted(claims.held(contents, key, own), when)
    return contents.with_vm(
        replace(record, status=move(record.status, Event.POSTPONED), claim=None, waiting=reason)
    )


def untouched(contents: Contents, key: str, own: Claim) -> Contents:
    """The VM is as it was found, and nothing of the backup is left in VirtualBox."""
    return contents.with_vm(replace(claims.held(contents, key, own), power=None))


def never_touched(contents: Contents, key: str, own: Claim) -> Contents:
    """What `touch` noted is not going to be done: the VM runs on, and had no outage."""
    record = claims.held(contents, key, own)
    claim = replace(record.claim, outage=False) if record.claim else None
    return contents.with_vm(replace(record, power=None, claim=claim))


def note_waiting(contents: Contents, reasons: Mapping[str, str]) -> Contents:
    """Notes by key why VMs that wait for their backup were not taken."""
    for key, reason in reasons.items():
        record = contents.vms.get(key)
        if (
            record is not None
            and record.status == State.BACKUP_NECESSARY
            and record.claim is None
            and record.waiting != reason
        ):
            contents = contents.with_vm(replace(record, waiting=reason))
    return contents
