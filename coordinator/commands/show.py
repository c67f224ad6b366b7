"""`vmbackup-admin show`."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from coordinator import clocks, reading, text
from coordinator.commands import check
from coordinator.commands.copies import describe as describe_copies
from coordinator.commands.copies import incomplete, missing, state
from coordinator.vm_rows import describe, notes
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.output import pasteable, print_json, say, warn
from shared.state.records import VmRecord
from shared.state.rules import vm_records
from shared.tasks.judgement import Verdict
from shared.tasks.verdicts import judge

if TYPE_CHECKING:
    from shared.site import Site


@documented(
    example="""
        vmbackup-admin show web01
        vmbackup-admin show web01 --json
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("vm")
@json_option
@pass_invocation
def command(invocation: Invocation, *, vm: str, as_json: bool) -> ExitCode:
    """All that is known of one VM: state, host, copies, failures, and who works on it."""
    site = invocation.site(reading=True)
    found = reading.read(site)
    record = vm_records.meant(found.snapshot.contents, vm)
    beats = (
        {record.claim.session: reading.doing(site.database, record.claim.session)}
        if record.claim
        else {}
    )
    now = site.clock.now()
    row = {**describe(record, beats, now), "rule": rule(site, record)}
    (verdict,) = judge(site, found.snapshot.contents, only=[record.key]).vms
    row["verdict"] = check.describe(verdict)
    copies, unseen = describe_copies(site, [record])
    gone = () if unseen else missing(site, [record])
    warnings = (
        *found.warnings,
        *unseen,
        *gone,
        *(clocks.of_copies(copies, now) or clocks.of_records([record], now)),
    )
    if as_json:
        fingerprint = dict(record.last_copy.fingerprint) if record.last_copy else None
        print_json(
            {
                "schema": 1,
                "vm": {**row, "found": record.found, "fingerprint": fingerprint, "copies": copies},
                "warnings": list(warnings),
            }
        )
        return incomplete(unseen, [record])
    for warning in warnings:
        warn(warning)
    text.print_facts([*_facts(row, record.found, now), *_judged(verdict)])
    say(
        "Copies:"
        if copies
        else "No copies were found where one could look."
        if unseen
        else "No copies."
    )
    for copy in copies:
        age = text.how_old(text.seconds_since(copy["finished"], now))
        say(
            f"  {copy['stamp']}  {text.size(copy['size'])}, {age}, "
            f"{state(copy)}{', archived' * copy['archived']}"
        )
        if copy["engine"]:
            say(f"    {made(copy)}")
        if copy["suspect"]:
            say(f"    suspect: it took blocks over from {copy['suspect']}, which is damaged")
        if copy["verified"]:
            say(
                f"    verified {text.local(copy['verified']['time'])}: {copy['verified']['result']}"
            )
        if copy["rehearsed"]:
            last = copy["rehearsed"]
            said = f"{last['result']} ({last['observed']})" if last["observed"] else last["result"]
            say(f"    rehearsed {text.local(last['time'])} on {last['node']}: {said}")
    return incomplete(unseen, [record])


def rule(site: "Site", record: VmRecord) -> str:
    """Which rule of this host's configuration decides whether the VM is backed up, in words."""
    said = site.backup_rule(record)
    words = f"{said.rule}: {'left out of' if said.left_out else 'has'} backups"
    words += f" ({said.ignored})" if said.ignored else ""
    if record.node == site.node or said.left_out == bool(record.left_out):
        return words
    other = f"left out: {record.left_out}" if record.left_out else "not left out"
    return f"{words}; what counts is the configuration of {record.node}: {other}"


def made(copy: Mapping[str, Any]) -> str:
    """How a copy was made, in words: by which engine and why, and how much of it was sent."""
    said = f"made by {'the parallel engine' if copy['engine'] == 'parallel' else 'VBoxManage'}"
    if copy["engine_reason"]:
        said += f", because {copy['engine_reason']}"
    wire = copy["wire"]
    if wire and wire["copied"]:
        said += f"; {text.size(wire['sent'])} sent, {text.size(wire['copied'])} copied on the NAS"
    elif wire and wire["reason"] and copy["engine"] == "parallel":
        said += f"; all of it sent: {wire['reason']}"
    return said


def _judged(verdict: Verdict) -> list[tuple[str, str]]:
    since = "" if verdict.seconds is None else f" ({text.duration(verdict.seconds)})"
    remedy = verdict.remedy if "vmbackup-admin show " not in verdict.remedy else ""
    return [
        ("Verdict", f"{verdict.level.name}: {verdict.reason}{since}"),
        ("Remedy", pasteable(remedy)),
    ]


def _facts(row: Mapping[str, Any], found: str, now: datetime) -> list[tuple[str, str]]:
    copy, claim, back = row["last_copy"], row["claim"], row["restored"]
    return [
        ("VM", row["name"]),
        (
            "Name in VirtualBox",
            row["virtualbox_name"] if row["virtualbox_name"] != row["name"] else "",
        ),
        ("UUID", row["uuid"]),
        ("Status", row["status"]),
        ("Host", row["node"]),
        ("Directory", row["directory"]),
        ("Found", text.local(found)),
        ("Groups", ", ".join(row["groups"])),
        ("Rule", row["rule"]),
        (
            "Last good copy",
            f"{copy['stamp']}, {text.size(copy['size'])}, {text.how_old(copy['age_seconds'])}"
            if copy
            else "none",
        ),
        (
            "Last restored",
            f"{text.local(back['when'])} on {back['node']} as {back['name']} ({back['stamp']})"
            if back
            else "",
        ),
        ("Failures since", str(row["failures"] or "")),
        (
            "Last error",
            f"{row['last_error']} ({text.local(row['last_error_at'] or '')})"
            if row["last_error"]
            else "",
        ),
        (
            "Held by",
            f"{claim['session']} for {claim['purpose']} since {text.local(claim['since'])}"
            if claim
            else "",
        ),
        ("Notes", notes({**row, "last_error": None}, now)),
    ]
