"""`vmbackup-admin status`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from coordinator import clocks, reading, text
from coordinator.commands import check
from coordinator.vm_rows import describe, notes
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.output import print_json, say, warn
from shared.state.records import VmRecord
from shared.state.states import State
from shared.state.store.snapshot import Snapshot
from shared.tasks.judgement import Level
from shared.tasks.verdicts import judge

if TYPE_CHECKING:
    from shared.site import Site

#: The order in which a person wants to see them: what needs attention or happens now comes first.
_ORDER: Final = (
    State.BACKUP_IN_PROGRESS,
    State.BACKUP_NECESSARY,
    State.RUNNING,
    State.NEW,
    State.CLEAN,
    State.ARCHIVED,
)
#: How many VMs a warning names.
_NAMED: Final = 10


@documented(
    example="""
        vmbackup-admin status
        vmbackup-admin status --json | jq '.vms[] | select(.failures > 0)'
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@json_option
@pass_invocation
def command(invocation: Invocation, *, as_json: bool) -> None:
    """All VMs: state, last good copy, failures, progress of running exports.

    Takes no lock and writes nothing on the NAS: any user who may read the database may run it at
    any time. Monitoring should run `vmbackup-admin check`, which tells all right from not.
    """
    site = invocation.site(reading=True)
    found = reading.read(site)
    beats = {
        record.claim.session: reading.doing(site.database, record.claim.session)
        for record in found.snapshot.contents.vms.values()
        if record.claim is not None
    }
    now = site.clock.now()
    judged = judge(site, found.snapshot.contents)
    said = {verdict.subject: verdict for verdict in judged.vms}
    rows = [
        {**describe(record, beats, now), "verdict": check.describe(said[record.key])}
        for record in _sorted(found.snapshot)
    ]
    warnings = (
        *found.warnings,
        *_little_room(site, _sorted(found.snapshot)),
        *_missing_reserve(site),
        *(f"host {check.said(host)}" for host in judged.hosts if host.level == Level.CRITICAL),
        *clocks.of_records(found.snapshot.contents.vms.values(), now),
    )
    if as_json:
        hosts = [check.describe(verdict) for verdict in judged.hosts]
        print_json({**_document(site, found, warnings, rows), "hosts": hosts})
        return
    for warning in warnings:
        warn(warning)
    if rows:
        text.print_table(
            ["VM", "STATUS", "HOST", "LAST COPY", "SIZE", "FAILURES", "NOTES"],
            [_columns(row, now) for row in rows],
        )
    say(_summary(rows))


def _sorted(snapshot: Snapshot) -> list[VmRecord]:
    return sorted(
        snapshot.contents.vms.values(), key=lambda record: (_ORDER.index(record.status), record.key)
    )


def _little_room(site: "Site", records: Sequence[VmRecord]) -> tuple[str, ...]:
    """A warning if no backup can begin because the NAS is full, with the VMs that wait.

    The VMs that are CLEAN would not tell, and where no byte is left no worker can note that one
    waits.
    """
    free, reserve = site.nas.free, site.configuration.nas.reserve
    if free >= max(reserve, 1):
        return ()
    waiting = [
        record.key
        for record in records
        if record.status == State.BACKUP_NECESSARY and record.claim is None and not record.left_out
    ]
    more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
    who = f". Waiting for room: {', '.join(waiting[:_NAMED])}{more}" if waiting else ""
    less = f", less than nas.reserve ({text.size(reserve)})" if reserve else ""
    return (
        (
            f"the NAS has {text.size(free)} free{less}: no backup begins. Free some space: "
            f"`vmbackup-admin prune --dry-run` shows what can go{who}"
        ),
    )


def _missing_reserve(site: "Site") -> tuple[str, ...]:
    """A warning if the database has no reserve, with which a full NAS is cleared."""
    try:
        said = reading.missing_reserve(site.database.root, site.configuration.nas.reserve)
    except OSError:
        return ()  # the database is damaged, or may not be read: that is said elsewhere
    return (said,) if said else ()


def _document(
    site: "Site", found: reading.Reading, warnings: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    header = found.snapshot.header
    return {
        "schema": 1,
        "repository": header.repository,
        "generation": header.generation,
        "committed": header.committed,
        "database_version": found.snapshot.contents.format,
        "warnings": list(warnings),
        "nas": {
            "free": site.nas.free,
            "total": site.nas.total,
            "reserve": site.configuration.nas.reserve,
        },
        "vms": list(rows),
    }


def _columns(row: Mapping[str, Any], now: datetime) -> list[str]:
    copy = row["last_copy"] or {}
    age = text.duration(copy["age_seconds"]) if copy else "none"
    return [
        row["name"],
        row["status"],
        row["node"],
        age,
        text.size(copy.get("size")),
        str(row["failures"] or ""),
        notes(row, now),
    ]


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "No VMs are known yet: `vmbackup-worker vmfind` finds those of its host."
    counts = [
        f"{number} {state}"
        for state in _ORDER
        if (number := sum(row["status"] == state for row in rows))
    ]
    left_out = sum(bool(row["left_out"]) and row["status"] != State.ARCHIVED for row in rows)
    kept = [row for row in rows if not row["left_out"] and row["status"] != State.ARCHIVED]
    failing = sum(bool(row["failures"]) for row in kept)
    bare = sum(row["last_copy"] is None for row in kept)
    extra = [
        f"{number} {what}"
        for number, what in (
            (left_out, "left out of backups"),
            (failing, "failing"),
            (bare, "without a copy"),
        )
        if number
    ]
    return f"{len(rows)} VMs: " + ", ".join([*counts, *extra])
