"""Whether a VM is looked at by its host. Pure, as `judgement` is."""

from collections.abc import Iterable

from shared.host.printable import quoted
from shared.state.records import VmRecord
from shared.state.rules import sightings
from shared.state.sessions.host_look import HostLook
from shared.state.states import State
from shared.tasks.judgement import (
    AWAY,
    Bounds,
    Level,
    Moment,
    Verdict,
    is_over,
    is_silent,
    on,
    seconds_ago,
)


def of_looks(
    record: VmRecord, look: HostLook | None, now: Moment, bounds: Bounds
) -> Iterable[Verdict]:
    """What is to be said of a VM that its host does not have, cannot use, or does not look at."""
    if record.missing_since:
        yield Verdict(
            record.key,
            Level.WARNING,
            "gone",
            f"its host {record.node} does not have it any more",
            seconds_ago(record.missing_since, now),
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
    since = seconds_ago(record.last_error_at, now)
    remedy = on(record.node, "VBoxManage list --long vms")
    return Verdict(record.key, Level.WARNING, "unusable", record.last_error, since, remedy)


def _unlooked(node: str, *, silent: bool) -> str:
    why = f"{node} has stopped, or is off" if silent else f"{node} looks, and not at this VM"
    return f"nobody looks at it: {why}"
