"""`vmbackup-admin status`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from coordinator import clocks, reading, text
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.host.printable import quoted
from shared.output import print_json, say, warn
from shared.state.records import VmRecord
from shared.state.states import State
from shared.state.store.snapshot import Snapshot

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
    any time, also from monitoring. Alert on the age of `last_copy`, not only on failures: a backup
    that is never tried does not fail.
    """
    site = invocation.site(reading=True)
    found = reading.read(site)
    beats = {
        record.claim.session: reading.doing(site.database, record.claim.session)
        for record in found.snapshot.contents.vms.values()
        if record.claim is not None
    }
    now = site.clock.now()
    rows = [describe(record, beats, now) for record in _sorted(found.snapshot)]
    warnings = (
        *found.warnings,
        *_little_room(site),
        *clocks.of_records(found.snapshot.contents.vms.values(), now),
    )
    if as_json:
        print_json(_document(site, found, warnings, rows))
        return
    for warning in warnings:
        warn(warning)
    if rows:
        text.print_table(
            ["VM", "STATUS", "HOST", "LAST COPY", "SIZE", "FAILURES", "NOTES"],
            [_columns(row, now) for row in rows],
        )
    say(_summary(rows))


def describe(
    record: VmRecord, beats: Mapping[str, Mapping[str, Any]], now: datetime
) -> dict[str, Any]:
    """One VM as `status --json` shows it.

    `beats`: what the sessions that hold claims say of themselves.
    """
    copy, claim = record.last_copy, record.claim
    return {
        "name": record.key,
        "status": str(record.status),
        "node": record.node,
        "uuid": record.uuid,
        "virtualbox_name": record.name,
        "directory": record.directory,
        "last_copy": copy
        and {
            "stamp": copy.stamp,
            "finished": copy.finished,
            "age_seconds": text.seconds_since(copy.finished, now),
            "size": copy.size,
            "sha256": copy.sha256,
        },
        "damaged": list(record.damaged),
        "order_unknown": list(record.order_unknown),
        "verified": record.verified or None,
        "restored": record.restored and record.restored.to_json(),
        "failures": record.failures,
        "last_error": record.last_error or None,
        "last_error_at": record.last_error_at or None,
        "waiting": record.waiting
        if record.status == State.BACKUP_NECESSARY and record.claim is None and record.waiting
        else None,
        "outages_failed": record.outages_failed,
        "next_outage": record.next_outage or None,
        "missing_since": record.missing_since,
        "also_on": record.also_on,
        "moving": record.moving,
        "publishing": record.publishing and record.publishing.stamp,
        "claim": claim
        and {
            "session": claim.session,
            "number": claim.number,
            "purpose": claim.purpose,
            "since": claim.since,
        },
        "progress": claim and _progress(record, beats.get(claim.session, {})),
    }


def _progress(record: VmRecord, beat: Mapping[str, Any]) -> dict[str, Any] | None:
    """How far the holder of the claim is, if it works on this very VM now."""
    if beat.get("vm") not in (record.key, record.name):
        return None
    return {
        name: beat.get(name) for name in ("phase", "percent", "bytes_done", "rate", "seconds_left")
    }


def _sorted(snapshot: Snapshot) -> list[VmRecord]:
    return sorted(
        snapshot.contents.vms.values(), key=lambda record: (_ORDER.index(record.status), record.key)
    )


def _little_room(site: "Site") -> tuple[str, ...]:
    """A warning if no backup can begin because the NAS is full.

    The VMs that are CLEAN would not tell.
    """
    free, reserve = site.nas.free, site.configuration.nas.reserve
    if free >= max(reserve, 1):
        return ()
    less = f", less than nas.reserve ({text.size(reserve)})" if reserve else ""
    return (
        (
            f"the NAS has {text.size(free)} free{less}: no backup begins. Free some space: "
            f"`vmbackup-admin prune --dry-run` shows what can go"
        ),
    )


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


def notes(row: Mapping[str, Any], now: datetime) -> str:
    """What else a person should know of a VM, most urgent first."""
    said = []
    if row["progress"]:
        said.append(how_far(row["progress"]))
    elif row["claim"]:
        said.append(f"{row['claim']['purpose']} by {row['claim']['session']}")
    if row["damaged"]:
        said.append(
            f"{len(row['damaged'])} damaged {'copy' if len(row['damaged']) == 1 else 'copies'}"
        )
    if row["order_unknown"]:
        said.append(order_unknown(row["name"], len(row["order_unknown"])))
    if row["waiting"]:
        said.append(row["waiting"])
    if row["missing_since"]:
        said.append(f"missing for {text.duration(text.seconds_since(row['missing_since'], now))}")
    if row["also_on"]:
        gone = (
            f"if {row['node']} is gone or was renamed: vmbackup-lock recover {quoted(row['node'])}"
        )
        said.append(
            f"also on {row['also_on']}: delete one of the two, or give it a new UUID; {gone}"
        )
    if row["moving"] and not row["claim"]:
        said.append(f"{row['moving']} was interrupted: the next worker goes on")
    if row["last_error"]:
        said.append(row["last_error"])
    return "; ".join(said)


def order_unknown(vm: str, count: int) -> str:
    """That it is not known of so many copies which is newer, what that means, and what ends it."""
    return (
        f"order of {count} copies unknown: number, time and order of creation disagree, none of "
        f"them is removed by itself; "
        f"`vmbackup-admin copies {quoted(vm)}` shows them, `vmbackup-admin remove {quoted(vm)} STAMP` ends it"
    )


def how_far(progress: Mapping[str, Any]) -> str:
    """`export 42 %, 1.5 GiB, 110 MiB/s, 20 min left`."""
    parts = [progress.get("phase") or "working"]
    if isinstance(progress.get("percent"), int | float):
        parts[0] += f" {progress['percent']:.0f} %"
    if isinstance(progress.get("bytes_done"), int):
        parts.append(text.size(progress["bytes_done"]))
    if isinstance(progress.get("rate"), int):
        parts.append(f"{text.size(progress['rate'])}/s")
    if isinstance(progress.get("seconds_left"), int):
        parts.append(f"{text.duration(progress['seconds_left'])} left")
    return ", ".join(parts)


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "No VMs are known yet: `vmbackup-worker vmfind` finds those of its host."
    counts = [
        f"{number} {state}"
        for state in _ORDER
        if (number := sum(row["status"] == state for row in rows))
    ]
    failing = sum(bool(row["failures"]) for row in rows)
    bare = sum(row["last_copy"] is None and row["status"] != State.ARCHIVED for row in rows)
    extra = [
        f"{number} {what}"
        for number, what in ((failing, "failing"), (bare, "without a copy"))
        if number
    ]
    return f"{len(rows)} VMs: " + ", ".join([*counts, *extra])
