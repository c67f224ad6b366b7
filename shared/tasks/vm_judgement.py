"""How the backup of one VM stands. Pure, as `judgement` is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shared.host.clock import is_ahead, parse_timestamp
from shared.host.printable import quoted
from shared.state.records import VmRecord
from shared.state.rules import sightings, unfinished
from shared.state.sessions.host_look import SILENT_AFTER, UNKNOWN_INTERVAL_SECONDS, HostLook
from shared.state.states import State
from shared.tasks.judgement import AWAY, GRAVITY, Level, Moment, Verdict, is_over, is_silent, on

DAY_SECONDS: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is allowed for one VM.

    `max_age_seconds`: how long it may be without a look or, if it was used, without a copy.
    `verify_days`: how often its copies are to be read (0: never). `may_be_off`: nobody looks while
    its host is off, and that is no fault.
    """

    max_age_seconds: float
    verify_days: float
    may_be_off: bool = False


def judge_vm(
    record: VmRecord, look: HostLook | None, now: Moment, bounds: Bounds, *, queued_for: str = ""
) -> Verdict:
    """How the backup of a VM stands: the gravest thing that is to be said of it."""
    return gravest(about_vm(record, look, now, bounds, queued_for=queued_for))


def gravest(said: Iterable[Verdict]) -> Verdict:
    """The gravest of all that is said of a VM; of what is equally grave, the first counts."""
    return max(said, key=lambda verdict: GRAVITY.index(verdict.level))


def about_vm(
    record: VmRecord, look: HostLook | None, now: Moment, bounds: Bounds, *, queued_for: str = ""
) -> Iterable[Verdict]:
    """All that can be said of a VM."""
    key = record.key
    if record.damaged:
        yield Verdict(
            key,
            Level.CRITICAL,
            "damaged",
            f"{_copies(len(record.damaged))} damaged",
            remedy=f"vmbackup-admin copies {quoted(key)}",
        )
    if record.status != State.ARCHIVED and not (record.left_out or record.taken_in_by):
        yield from _of_looks(record, look, now, bounds)
        yield from _of_copies(record, look, now, bounds)
    if begun := unfinished.of(record):
        what = ", ".join(each.what for each in begun)
        ages = [age for each in begun if (age := _ago(each.since, now)) is not None]
        since = max(ages, default=None)
        yield Verdict(key, Level.WARNING, "unfinished", what, since, "vmbackup-lock list")
    if record.order_unknown:
        yield Verdict(
            key,
            Level.WARNING,
            "disputed",
            f"{_copies(len(record.order_unknown))} of unknown order",
            remedy=f"vmbackup-admin copies {quoted(key)}",
        )
    yield from _of_verification(record, now, bounds)
    yield _state(record, queued_for)


def _of_looks(
    record: VmRecord, look: HostLook | None, now: Moment, bounds: Bounds
) -> Iterable[Verdict]:
    if record.missing_since:
        yield Verdict(
            record.key,
            Level.WARNING,
            "gone",
            f"its host {record.node} does not have it any more",
            _ago(record.missing_since, now),
            f"vmbackup-admin archive {quoted(record.key)}",
        )
        return
    unusable = sightings.is_unusable(record)
    if unusable:
        yield _unusable(record, now)
    # a host that notes why it cannot use a VM has looked at it
    looked = (look.looked if unusable else look.vms.get(record.uuid)) if look else None
    if look is None or looked is None:
        level = Level.OK if bounds.may_be_off else Level.UNKNOWN
        reason = f"it is not known when {record.node or 'its host'} last looked at it"
        remedy = on(record.node, "vmbackup-worker run")
        yield Verdict(record.key, level, "unlooked", reason, remedy=remedy)
        return
    silent, old = is_silent(look, now), is_over(look, looked, bounds.max_age_seconds, now)
    if not (silent or old) and None not in (silent, old):
        return
    if bounds.may_be_off and silent is not False:
        return
    if record.status == State.BACKUP_IN_PROGRESS and record.claim is not None and silent is False:
        return  # nobody looks at a VM while it is being copied
    sure = silent or old
    yield Verdict(
        record.key,
        Level.CRITICAL if sure else Level.UNKNOWN,
        "unlooked" if sure else "away",
        _unlooked(record.node, silent=silent is not False) if sure else AWAY,
        now.nas - looked,
        on(record.node, "vmbackup-admin doctor") if sure else "vmbackup-worker run",
    )


def _unusable(record: VmRecord, now: Moment) -> Verdict:
    since = _ago(record.last_error_at, now)
    remedy = on(record.node, "VBoxManage list --long vms")
    return Verdict(record.key, Level.WARNING, "unusable", record.last_error, since, remedy)


def _unlooked(node: str, *, silent: bool) -> str:
    why = f"{node} has stopped, or is off" if silent else f"{node} looks, and not at this VM"
    return f"nobody looks at it: {why}"


def _of_copies(
    record: VmRecord, look: HostLook | None, now: Moment, bounds: Bounds
) -> Iterable[Verdict]:
    """Whether a VM that was used has been without a copy for too long, or fails."""
    if record.status == State.CLEAN:
        return
    waits = _used_seconds(record, look, now)
    told = not record.last_error or sightings.is_unusable(record)
    why = f": {record.last_error}" if record.failures and not told else ""
    if waits is None or waits > bounds.max_age_seconds:
        none = "" if record.last_copy else ", and has no copy at all"
        yield Verdict(
            record.key,
            Level.CRITICAL,
            "overdue",
            f"it was used, and not copied since{none}{why}",
            waits,
            f"vmbackup-admin show {quoted(record.key)}",
        )
    elif record.failures:
        yield Verdict(
            record.key,
            Level.WARNING,
            "failing",
            f"{record.failures} failed{why}",
            _ago(record.last_error_at, now),
            f"vmbackup-admin show {quoted(record.key)}",
        )
    elif record.last_copy is None and _had_its_chance(record, look, now):
        yield Verdict(
            record.key,
            Level.WARNING,
            "uncopied",
            "it has no copy at all, though one could have been made",
            remedy=f"vmbackup-admin show {quoted(record.key)}",
        )


def _had_its_chance(record: VmRecord, look: HostLook | None, now: Moment) -> bool:
    """Whether a VM without any copy could have one, as far as is known.

    It had one before, or its host has looked often enough since it was found. One that runs, waits
    for its window or is being copied for the first time has not had it yet.
    """
    if record.status == State.BACKUP_IN_PROGRESS:
        return False
    was_as_copied = look is not None and record.uuid in look.unchanged
    if record.backed_up or (was_as_copied and record.status != State.NEW):
        return True
    if record.status == State.RUNNING or record.waiting or record.queued:
        return False
    known = _ago(record.found, now)
    interval = look.interval_seconds if look else UNKNOWN_INTERVAL_SECONDS
    return known is None or known > SILENT_AFTER * interval


def _used_seconds(record: VmRecord, look: HostLook | None, now: Moment) -> float | None:
    """For how long at most a VM has been used without a copy; None if nothing tells."""
    since = [look.unchanged[record.uuid]] if look and record.uuid in look.unchanged else []
    ages = [now.nas - time for time in since]
    copied = record.last_copy.finished if record.last_copy else record.found
    ages += [age] if (age := _ago(copied, now)) is not None else []
    return min(ages, default=None)


def _of_verification(record: VmRecord, now: Moment, bounds: Bounds) -> Iterable[Verdict]:
    if not bounds.verify_days or record.last_copy is None or not record.verified:
        return
    age = _ago(record.verified, now)
    if age is None or age > (2 * bounds.verify_days + 1) * DAY_SECONDS:
        yield Verdict(
            record.key,
            Level.WARNING,
            "unverified",
            f"a copy was not read again for longer than verify_days ({bounds.verify_days:g})",
            age,
            f"vmbackup-admin verify {quoted(record.key)}",
        )


def _state(record: VmRecord, queued_for: str) -> Verdict:
    """What the VM's state says, if nothing is wrong."""
    if record.left_out and record.status not in (State.ARCHIVED, State.BACKUP_IN_PROGRESS):
        return Verdict(record.key, Level.OK, "left-out", left_out(record))
    kinds: Mapping[State, tuple[str, str]] = {
        State.ARCHIVED: ("archived", "archived: not backed up any more"),
        State.CLEAN: ("copied", "unused since its last copy"),
        State.RUNNING: ("running", "runs, and is backed up when it has stopped"),
        State.NEW: ("new", "new: its first copy is due"),
        State.BACKUP_IN_PROGRESS: ("copying", "is being backed up"),
        State.BACKUP_NECESSARY: ("waiting", queued_for or record.waiting or "waits for its backup"),
    }
    kind, reason = kinds[record.status]
    return Verdict(record.key, Level.OK, kind, reason)


def left_out(record: VmRecord) -> str:
    """That a VM is left out of backups, by which rule of its host."""
    return f"left out of backups by its host: {record.left_out}"


def _ago(stamp: str | None, now: Moment) -> float | None:
    """How long ago a stored time was by the reader's clock; None if it says nothing."""
    here = datetime.fromtimestamp(now.host, UTC)
    try:
        return (
            None
            if is_ahead(here, stamp)
            else max(0.0, now.host - parse_timestamp(stamp or "").timestamp())
        )
    except ValueError:
        return None


def _copies(count: int) -> str:
    return "1 copy is" if count == 1 else f"{count} copies are"
