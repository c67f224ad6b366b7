"""What transactions do to the contents of the database.

Pure functions: run again after a lost race, searched by the model checker.

A change that only the holder of a claim may make takes that `Claim` and raises `LockLostError` when
the row is no longer its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Literal

from shared.host.errors import (
    IllegalMoveError,
    LockedError,
    LockLostError,
    NodeConflictError,
    UnknownVmError,
    UnusableRecordError,
)
from shared.host.printable import quoted
from shared.state.numbers import believable, next_number
from shared.state.records import Claim, Contents, Copy, NodeRecord, Power, SessionRecord, VmRecord
from shared.state.rules import outages, slots
from shared.state.states import IN_FLIGHT, Event, State, move

#: Purposes of claims under which a VM is BACKUP_IN_PROGRESS.
BACKUP_PURPOSES: Final = frozenset({"backup", "publish"})


# Nodes and sessions


def join(contents: Contents, node: str, machine: str, hostname: str) -> Contents:
    """Registers the machine behind a host name.

    Raises `NodeConflictError` if another machine has that name.
    """
    check_node(contents, node, machine)
    known = contents.nodes.get(node)
    if known is None:
        return contents.with_node(NodeRecord(node, machine, hostname))
    if machine and not known.machine:  # it had no machine id; now it is told from others
        return contents.with_node(replace(known, machine=machine, hostname=hostname))
    return contents


def check_node(contents: Contents, node: str, machine: str) -> None:
    """Raises `NodeConflictError` if the name `node` belongs to another machine than `machine`.

    Also if its record does not fit, so that this cannot be known.
    """
    if row := contents.unusable_row("nodes", node):
        raise NodeConflictError(
            row.message,
            hint=f"if no newer program wrote it: `vmbackup-lock recover {node} --replaced`",
        )
    known = contents.nodes.get(node)
    if known is not None and known.machine and machine and known.machine != machine:
        raise NodeConflictError(
            (
                f"another machine (host name {known.hostname or 'unknown'}, machine id "
                f"{known.machine[:12]}…) already backs up as {node!r}"
            ),
            hint=f"give this host a name of its own: host.node in the configuration, or "
            f"VMBACKUP_NODE. If this machine replaces that one, "
            f"run `vmbackup-lock recover {quoted(node)} --replaced` first",
        )


def check_user(contents: Contents, node: str, user: str) -> None:
    """Raises `NodeConflictError` if the VMs of the host `node` are those of another user than `user`."""
    known = contents.nodes.get(node)
    if known is not None and known.user and known.user != user:
        raise NodeConflictError(
            (
                f"the VMs of {node!r} are those of another user (uid {known.user}), and this "
                f"is uid "
                f"{user}"
            ),
            hint="workers run as the user who owns the VMs. If this one has some, give it a "
            "configuration with a host.node of its own; "
            f"if the workers' user was changed on purpose: `vmbackup-lock recover {quoted(node)} "
            f"--replaced`",
        )


def own(contents: Contents, node: str, user: str) -> Contents:
    """Notes whose VMs those of a host are that has joined. Raises what `check_user` raises."""
    check_user(contents, node, user)
    known = contents.nodes.get(node)
    return (
        contents.with_node(replace(known, user=user))
        if known is not None and known.user != user
        else contents
    )


def tombstone(row: SessionRecord, state: Literal["ended", "expired"]) -> SessionRecord:
    """What is remembered of a session that is over: enough to tell it what it had committed."""
    return SessionRecord(row.id, row.sequence, row.generation, state, row.node, row.worker)


def expire(contents: Contents, sessions: Iterable[str], reason: str, when: str) -> Contents:
    """Declares sessions dead and frees what they held.

    A VM whose copy was being put in place stays claimable for finishing that.
    """
    for identifier in sessions:
        row = contents.sessions.get(identifier)
        if row is None or row.state != "live":
            continue
        contents = contents.with_session(tombstone(row, "expired"))
        for record in contents.vms.values():
            if record.claim is not None and record.claim.session == identifier:
                contents = contents.with_vm(replace(_freed(record, reason, when), leftovers=True))
    return contents


def tidied(contents: Contents, keys: Iterable[str]) -> Contents:
    """Notes that nothing of dead sessions is left in the directories of these VMs."""
    for key in keys:
        if key in contents.vms and contents.vms[key].leftovers:
            contents = contents.with_vm(replace(contents.vms[key], leftovers=False))
    return contents


def _freed(record: VmRecord, reason: str, when: str) -> VmRecord:
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


# Claims and backups


def find(contents: Contents, key: str) -> VmRecord:
    """The record of `key`.

    Raises `UnknownVmError` that names similar ones, and `UnusableRecordError` if it does not fit.
    """
    record = contents.vms.get(key)
    if record is not None:
        return record
    if row := contents.unusable_row("vms", key):
        raise UnusableRecordError(
            row.message,
            hint=(
                f"if no newer program wrote it, `vmbackup-admin forget {key}` deletes it, and the "
                f"next vmfind finds the VM again; no copy is touched"
            ),
        )
    similar = sorted(
        known for known in contents.vms if known.casefold().startswith(key.casefold()[:3])
    )[:5]
    raise UnknownVmError(
        f"there is no VM {key!r} in the state database",
        hint=f"similar: {', '.join(similar)}"
        if similar
        else "`vmbackup-admin status` lists all VMs",
    )


def claim(
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

    Raises `LockedError` if somebody holds it.

    The claim's number is above all that were given out, and above `floor`: the highest that stands
    in the names of the VM's files.

    With a `limit`, raises `TooManyExportsError` if so many backups are claimed already, of all
    hosts, or VMs that wait longer come first (`shared.state.rules.slots`): being part of the
    transaction, the limit is exact.
    """
    record = find(contents, key)
    require_free(record)
    if limit:
        slots.require_place(contents, key, limit)
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
            hint="the next database worker does that",
        )
    granted = Claim(session, number, purpose, when)
    if purpose == "backup":
        record = replace(record, waiting="", queued=None)
    return replace(contents, claims_granted=number).with_vm(
        replace(record, claim=granted, status=status)
    )


def raise_numbers(contents: Contents, floor: int) -> Contents:
    """From now on claims have numbers above `floor`, if that can be believed."""
    return (
        replace(contents, claims_granted=floor)
        if believable(floor) and floor > contents.claims_granted
        else contents
    )


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
    """Raises `LockedError` when a backup that died has left the VM in another power state, or a snapshot of it."""
    if record.power is not None:
        raise LockedError(
            (
                f"{record.key} is not yet as a backup found it ({record.power.method}, it was "
                f"{record.power.found})"
            ),
            hint=f"vmbackup-worker database on the host {record.node} brings it back",
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


def intend(contents: Contents, key: str, own: Claim, copy: Copy) -> Contents:
    """Notes that a verified copy is being put in place.

    From here on it will be, by its worker or by whoever finds it.
    """
    return contents.with_vm(replace(held(contents, key, own), publishing=copy))


def published(
    contents: Contents, key: str, own: Claim, order_unknown: tuple[str, ...] = ()
) -> Contents:
    """The copy of `intend` is in place: the VM is CLEAN. `order_unknown`: see `VmRecord`."""
    record = held(contents, key, own)
    if record.publishing is None:
        raise IllegalMoveError(f"{key}: there is no copy to be put in place")
    return contents.with_vm(
        replace(
            record,
            status=move(record.status, Event.PUBLISHED),
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
            verified=record.verified or record.publishing.finished,
            order_unknown=order_unknown,
        )
    )


def failed(contents: Contents, key: str, own: Claim, error: str, when: str) -> Contents:
    """The backup did not succeed: BACKUP_NECESSARY again, at the back of the queue."""
    record = replace(held(contents, key, own), publishing=None)
    return contents.with_vm(_freed(record, error, when))


def found_running(contents: Contents, key: str, own: Claim, when: str) -> Contents:
    """The VM runs, which is no failure: it waits until it stops.

    Raises `IllegalMoveError` when a copy is being put in place already.

    One that was asked to shut down and did not is left alone for a while.
    """
    record = held(contents, key, own)
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
    record = outages.counted(held(contents, key, own), when)
    return contents.with_vm(
        replace(record, status=move(record.status, Event.POSTPONED), claim=None, waiting=reason)
    )


def touch(contents: Contents, key: str, own: Claim, power: Power) -> Contents:
    """Notes what is about to be done to the VM, so that whoever comes after a crash can undo it, and counts it if it was for nothing."""
    record = held(contents, key, own)
    claim = (
        replace(record.claim, outage=True)
        if record.claim and power.method in outages.OUTAGES
        else record.claim
    )
    return contents.with_vm(replace(record, power=power, claim=claim))


def untouched(contents: Contents, key: str, own: Claim) -> Contents:
    """The VM is in the state in which it was found, and nothing of the backup is left in VirtualBox."""
    return contents.with_vm(replace(held(contents, key, own), power=None))


def released(contents: Contents, key: str, own: Claim, *, leftovers: bool = False) -> Contents:
    """Gives up a claim that did not change the state.

    `leftovers`: it may have left partial files, which the next database worker removes. Raises `IllegalMoveError` if that would leave the VM in flight with nobody on it.
    """
    record = held(contents, key, own)
    if record.status in IN_FLIGHT and record.publishing is None:
        raise IllegalMoveError(f"{key}: a backup ends by being published or by having failed")
    return contents.with_vm(replace(record, claim=None, leftovers=record.leftovers or leftovers))
