"""One VM as `status` and `show` tell of it: its fields for JSON, and what a person should know."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from coordinator import text
from coordinator.hold_words import document
from shared.host.printable import quoted
from shared.state.records import CopyRecord, VmRecord
from shared.state.rules import unfinished
from shared.state.states import State

#: Kinds of verdicts of which nothing else of a VM tells.
_JUDGED: Final = frozenset(
    {
        "unlooked",
        "overdue",
        "away",
        "unverified",
        "unrehearsed",
        "running",
        "new",
        "waiting",
        "stuck",
    }
)


def describe(
    record: VmRecord, beats: Mapping[str, Mapping[str, Any]], now: datetime
) -> dict[str, Any]:
    """One VM as `status --json` shows it.

    `beats`: what the sessions that hold claims say of themselves.
    """
    claim = record.claim
    return {
        "name": record.key,
        "status": str(record.status),
        "node": record.node,
        "uuid": record.uuid,
        "virtualbox_name": record.name,
        "directory": record.directory,
        "last_copy": record.last_copy and _last_copy(record.last_copy, now),
        "damaged": list(record.damaged),
        "order_unknown": list(record.order_unknown),
        "verified": record.verified or None,
        "restored": record.restored and record.restored.to_json(),
        "failures": record.failures,
        "last_error": record.last_error or None,
        "last_error_at": record.last_error_at or None,
        "groups": list(record.groups),
        "left_out": record.left_out or None if record.status != State.ARCHIVED else None,
        "waiting": record.waiting
        if record.status == State.BACKUP_NECESSARY and record.claim is None and record.waiting
        else None,
        "outages_failed": record.outages_failed,
        "next_outage": record.next_outage or None,
        "missing_since": record.missing_since,
        "also_on": record.also_on,
        "moving": record.moving,
        "publishing": record.publishing and record.publishing.stamp,
        "unfinished": [each.to_json() for each in unfinished.of(record)],
        "holds": [document(hold) for hold in record.holds],
        "power_left": record.power_left and unfinished.may_remain(record, record.power_left),
        "claim": claim
        and {
            "session": claim.session,
            "number": claim.number,
            "purpose": claim.purpose,
            "since": claim.since,
        },
        "progress": claim and _progress(record, beats.get(claim.session, {})),
    }


def _last_copy(copy: CopyRecord, now: datetime) -> dict[str, Any]:
    other = copy.other_engine
    return {
        "stamp": copy.stamp,
        "finished": copy.finished,
        "age_seconds": text.seconds_since(copy.finished, now),
        "size": copy.size,
        "sha256": copy.sha256 or None,
        "other_engine": other and {"reason": other.reason, "copies": other.copies},
        "not_paused": copy.not_paused or None,
    }


def _progress(record: VmRecord, beat: Mapping[str, Any]) -> dict[str, Any] | None:
    """How far the holder of the claim is, if it works on this very VM now."""
    if beat.get("vm") not in (record.key, record.name):
        return None
    return {
        name: beat.get(name) for name in ("phase", "percent", "bytes_done", "rate", "seconds_left")
    }


def notes(row: Mapping[str, Any], now: datetime) -> str:
    """What else a person should know of a VM, most urgent first."""
    said = [*_judged(row), *_under_way(row), *_of_copies(row)]
    if row["left_out"]:
        said.append(f"left out of backups: {row['left_out']}")
    if row["waiting"] and not any(row["waiting"] in each for each in said):
        said.append(row["waiting"])
    if row["missing_since"]:
        said.append(f"missing for {text.duration(text.seconds_since(row['missing_since'], now))}")
    if row["also_on"]:
        gone = " or ".join(
            f"vmbackup-lock recover {quoted(host)}" for host in (row["node"], row["also_on"])
        )
        said.append(
            f"also on {row['also_on']}: delete one of the two, or give it a new UUID; if a host "
            f"is gone or was renamed: {gone}"
        )
    said += [unfinished_text(each, now) for each in row["unfinished"]]
    said += [
        f"its copy {hold['stamp']} is held by {hold['guest']} on {hold['host']}"
        for hold in row["holds"]
        if not hold["ended"]
    ]
    if row["power_left"]:
        said.append(row["power_left"])
    if row["last_error"]:
        said.append(row["last_error"])
    return "; ".join(said)


def unfinished_text(begun: Mapping[str, Any], now: datetime) -> str:
    """One piece of unfinished work: what, for how long, and who finishes it."""
    since = f" ({text.duration(text.seconds_since(begun['since'], now))})" if begun["since"] else ""
    return f"{begun['what']}{since}: {begun['finisher']} goes on"


def _judged(row: Mapping[str, Any]) -> list[str]:
    """What only the judgement knows: that nobody looks, or why it has no fresh copy, since when."""
    verdict = row.get("verdict")
    said = [verdict, *verdict["also"]] if verdict else []
    return [
        each["reason"] + ("" if each["seconds"] is None else f" ({text.duration(each['seconds'])})")
        for each in said
        if each["kind"] in _JUDGED
    ]


def _under_way(row: Mapping[str, Any]) -> list[str]:
    """Who works on the VM, and how far that is."""
    if row["progress"]:
        return [how_far(row["progress"])]
    return [f"{row['claim']['purpose']} by {row['claim']['session']}"] if row["claim"] else []


def _of_copies(row: Mapping[str, Any]) -> list[str]:
    """What is wrong with copies of the VM."""
    said = []
    if row["damaged"]:
        copies = "copy" if len(row["damaged"]) == 1 else "copies"
        said.append(f"{len(row['damaged'])} damaged {copies}")
    if row["order_unknown"]:
        said.append(order_unknown(row["name"], len(row["order_unknown"])))
    other = row["last_copy"] and row["last_copy"]["other_engine"]
    if other and other["copies"] > 1:
        said.append(other_engine(other))
    if row["last_copy"] and row["last_copy"]["not_paused"]:
        said.append(not_paused(row["last_copy"]["not_paused"]))
    return said


def other_engine(other: Mapping[str, Any]) -> str:
    """That the parallel engine was left for longer than one backup, why, and what ends it."""
    return (
        f"the last {other['copies']} copies were made by VBoxManage, which is slow and sends "
        f"everything, because {other['reason']}; "
        f'if that is to stay, engine = "vboxmanage" for this VM ends this note'
    )


def not_paused(reason: str) -> str:
    """That a VM was copied live which was to be paused, and why."""
    return f"its last copy was made live, from a snapshot, instead of pausing it: {reason}"


def order_unknown(vm: str, count: int) -> str:
    """That it is not known of so many copies which is newer, what that means, and what ends it."""
    return (
        f"order of {count} copies unknown: number, time and order of creation disagree, none of "
        f"them is removed by itself; "
        f"`vmbackup-admin copies {quoted(vm)}` shows them, "
        f"`vmbackup-admin remove {quoted(vm)} STAMP` ends it"
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
