"""How the backup of one VM stands. Pure, as `judgement` is."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from shared.copies.names import parse_stamp
from shared.host.printable import quoted
from shared.state.records import VmRecord
from shared.state.rules import sightings, unfinished
from shared.state.sessions.host_look import SILENT_AFTER, UNKNOWN_INTERVAL_SECONDS, HostLook
from shared.state.states import State
from shared.tasks.judgement import GRAVITY, Bounds, Level, Moment, Verdict, seconds_ago
from shared.tasks.look_judgement import of_looks

DAY_SECONDS: Final = 86400.0
#: Kinds of VMs that were used since their last copy, if they have one.
_NOT_FRESH: Final = frozenset({"running", "new", "waiting"})


def judge_vm(
    record: VmRecord, look: HostLook | None, now: Moment, bounds: Bounds, *, queued_for: str = ""
) -> Verdict:
    """How the backup of a VM stands: the gravest thing that is to be said of it."""
    return gravest(about_vm(record, look, now, bounds, queued_for=queued_for))


def gravest(said: Iterable[Verdict]) -> Verdict:
    """The gravest of all that is said of a VM; of what is equally grave, the first counts.

    What else is not all right comes with it.
    """
    first, *others = sorted(said, key=lambda one: GRAVITY.index(one.level), reverse=True)
    return replace(first, also=tuple(one for one in others if one.level != Level.OK))


def about_vm(
    record: VmRecord, look: HostLook | None, now: Moment, bounds: Bounds, *, queued_for: str = ""
) -> Iterable[Verdict]:
    """All that can be said of a VM."""
    key = record.key
    if record.damaged:
        yield _damaged(record)
    if record.status != State.ARCHIVED and not (record.left_out or record.taken_in_by):
        if record.also_on:
            what = f"two hosts have it: what is on {record.also_on} is not backed up"
            yield Verdict(
                key, Level.WARNING, "twice", what, remedy=f"vmbackup-admin show {quoted(key)}"
            )
        yield from of_looks(record, look, now, bounds)
        yield from _of_copies(record, look, now, bounds)
    if begun := unfinished.of(record):
        what = ", ".join(each.what for each in begun)
        ages = [age for each in begun if (age := seconds_ago(each.since, now)) is not None]
        since = max(ages, default=None)
        yield Verdict(key, Level.WARNING, "unfinished", what, since, "vmbackup-lock list")
    if (left := record.power_left) is not None:
        remains = unfinished.may_remain(record, left)
        yield Verdict(key, Level.WARNING, "left", remains, seconds_ago(left.since, now))
    if record.order_unknown:
        yield Verdict(
            key,
            Level.WARNING,
            "disputed",
            f"{_copies(len(record.order_unknown))} of unknown order",
            remedy=f"vmbackup-admin copies {quoted(key)}",
        )
    yield from _of_verification(record, now, bounds)
    yield from _of_rehearsal(record, now, bounds)
    yield _state(record, queued_for, look, now)


def _damaged(record: VmRecord) -> Verdict:
    """That copies are damaged. It stays so until they are read once more and are good, or removed.

    The latter is advised only where nothing is lost by it: a newer copy was read in full.
    """
    key, oldest = quoted(record.key), min(record.damaged)
    what, remedy = f"{_copies(len(record.damaged))} damaged", f"vmbackup-admin verify {key}"
    if _is_replaced(record):
        remedy = f"vmbackup-admin remove {key} {quoted(oldest)}"
    else:
        what += ", and no newer one was read and is good"
    return Verdict(record.key, Level.CRITICAL, "damaged", what, remedy=remedy)


def _is_replaced(record: VmRecord) -> bool:
    """Whether a copy that is newer than all damaged ones by all signs was read in full."""
    last = record.last_copy
    if last is None or not last.sha256 or not record.verified:  # empty: a copy is suspect
        return False
    try:
        good, damaged = parse_stamp(last.stamp), list(map(parse_stamp, record.damaged))
    except ValueError:
        return False
    return all(each.moment < good.moment and each.claim < good.claim for each in damaged)


def _of_copies(
    record: VmRecord, look: HostLook | None, now: Moment, bounds: Bounds
) -> Iterable[Verdict]:
    """Whether a VM that was used has been without a copy for too long, or fails."""
    if record.status == State.CLEAN:
        return
    waits = used_seconds(record, look, now)
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
            seconds_ago(record.last_error_at, now),
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
    known = seconds_ago(record.found, now)
    interval = look.interval_seconds if look else UNKNOWN_INTERVAL_SECONDS
    return known is None or known > SILENT_AFTER * interval


def used_seconds(record: VmRecord, look: HostLook | None, now: Moment) -> float | None:
    """For how long at most a VM has been used without a copy; None if nothing tells."""
    since = [look.unchanged[record.uuid]] if look and record.uuid in look.unchanged else []
    ages = [now.nas - time for time in since]
    copied = record.last_copy.finished if record.last_copy else record.found
    ages += [age] if (age := seconds_ago(copied, now)) is not None else []
    return min(ages, default=None)


def _of_verification(record: VmRecord, now: Moment, bounds: Bounds) -> Iterable[Verdict]:
    if not bounds.verify_days or record.last_copy is None or not record.verified:
        return
    age, unread = seconds_ago(record.verified, now), not record.last_copy.sha256
    if age is None or age > ((1 if unread else 2) * bounds.verify_days + 1) * DAY_SECONDS:
        what = (
            "what its newest copy took over was not read" if unread else "a copy was not read again"
        )
        yield Verdict(
            record.key,
            Level.WARNING,
            "unverified",
            f"{what} for longer than verify_days ({bounds.verify_days:g})",
            age,
            f"vmbackup-admin verify {quoted(record.key)}",
        )


def _of_rehearsal(record: VmRecord, now: Moment, bounds: Bounds) -> Iterable[Verdict]:
    """Whether its last rehearsal failed, or is too long ago, or there never was one.

    That a copy failed is over with a newer one where nobody would rehearse that. Since when there
    are copies of a VM, nothing tells: those that were never rehearsed count from when it was found.
    """
    last, remedy = record.rehearsed, f"vmbackup-admin rehearse --boot {quoted(record.key)}"
    days, since = bounds.rehearse_days, last.time if last else record.found
    age = seconds_ago(since, now)
    late = days > 0 and (age is None or age > (2 * days + 1) * DAY_SECONDS)
    if last is None:
        if late and record.last_copy is not None:
            reason = f"no copy was ever rehearsed, though rehearse_days is {days:g}"
            yield Verdict(record.key, Level.WARNING, "unrehearsed", reason, age, remedy)
        return
    newest = record.last_copy.stamp if record.last_copy else ""
    if last.result != "good" and (days or last.stamp == newest):
        reason = f"its copy {last.stamp} does not come back: {last.result}"
        yield Verdict(record.key, Level.WARNING, "unrestorable", reason, age, remedy)
    elif last.result == "good" and late:
        reason = f"no copy was rehearsed for longer than rehearse_days ({days:g})"
        yield Verdict(record.key, Level.WARNING, "unrehearsed", reason, age, remedy)


def _state(record: VmRecord, queued_for: str, look: HostLook | None, now: Moment) -> Verdict:
    """What the VM's state says, if nothing is wrong; of one without a fresh copy, since when."""
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
    since = used_seconds(record, look, now) if kind in _NOT_FRESH else None
    return Verdict(record.key, Level.OK, kind, reason, since)


def left_out(record: VmRecord) -> str:
    """That a VM is left out of backups, by which rule of its host."""
    return f"left out of backups by its host: {record.left_out}"


def _copies(count: int) -> str:
    return "1 copy is" if count == 1 else f"{count} copies are"
