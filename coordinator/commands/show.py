"""`vmbackup-admin show`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from coordinator import clocks, database_reading, hold_words, text, vm_argument
from coordinator.commands.copies import describe as describe_copies
from coordinator.copy_words import incomplete, missing, rehearsal_lines, state
from coordinator.vm_rows import describe, notes
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ExitCode
from shared.host.printable import quoted
from shared.output import pasteable, print_json, say, warn
from shared.state.records import VmRecord
from shared.tasks.judgement import Verdict
from shared.tasks.sentences import reasons
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
@click.argument("vm", type=VM)
@json_option
@pass_invocation
def command(invocation: Invocation, *, vm: str, as_json: bool) -> ExitCode:
    """All that is known of one VM: state, host, copies, failures, and who works on it.

    Of copies of which no record tells: what they are, and what can be done with them. VM may be a
    name, a UUID, or a directory with copies.
    """
    site = invocation.site(reading=True)
    found = database_reading.read(site)
    record = vm_argument.choose(site, found.snapshot.contents, vm)
    if record.key not in found.snapshot.contents.vms:
        known = found.snapshot.contents.vms.values()
        of = next((vm.key for vm in known if vm.uuid.lower() == record.uuid), "")
        return _unlisted(site, record, of, found.warnings, as_json=as_json)
    beats = (
        {record.claim.session: database_reading.doing(site.database, record.claim.session)}
        if record.claim
        else {}
    )
    now = site.clock.now()
    row = {**describe(record, beats, now), "rule": rule(site, record)}
    (verdict,) = judge(site, found.snapshot.contents, only=[record.key]).vms
    row["verdict"] = verdict.document(pasteable)
    copies, unseen = describe_copies(site, [record])
    gone = () if unseen else missing(site, [record])
    warnings = (
        *found.warnings,
        *unseen,
        *gone,
        *(() if unseen else hold_words.gone(record, (row["stamp"] for row in copies))),
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
    _print_copies(copies, now, unseen)
    return incomplete(unseen, [record])


def _unlisted(
    site: "Site", record: VmRecord, of: str, warnings: Sequence[str], *, as_json: bool
) -> ExitCode:
    """Shows copies of which no record tells. Nothing judges them: nobody adds to them.

    `of` is the key of the VM if it has a record, which is of another directory.
    """
    now = site.clock.now()
    copies, unseen = describe_copies(site, [record])
    warnings = (*warnings, *unseen, *clocks.of_copies(copies, now))
    key = quoted(record.key)
    row = {
        "name": record.key,
        "status": None,
        "node": record.node,
        "uuid": record.uuid,
        "virtualbox_name": record.name,
        "directory": record.directory,
        "listed": False,
        "verdict": None,
        "copies": copies,
    }
    if as_json:
        print_json({"schema": 1, "vm": row, "warnings": list(warnings)})
        return incomplete(unseen, [record])
    for warning in warnings:
        warn(warning)
    facts = [
        ("VM", record.key),
        ("Name in VirtualBox", record.name),
        ("UUID", record.uuid),
        ("Status", _why_unlisted(of)),
        ("Host", f"{record.node} made the newest copy" if record.node else ""),
        ("Directory", record.directory),
        (
            "Next",
            f"vmbackup-admin restore {key}"
            + ("" if of else "; pin, archive, remove and verify take it, too"),
        ),
        ("Taken back", "" if of else "by the next vmfind of a host that has the VM"),
    ]
    text.print_facts(facts)
    _print_copies(copies, now, unseen)
    return incomplete(unseen, [record])


def _why_unlisted(of: str) -> str:
    if of:
        return f"no record tells of these copies: its record, {of}, is of another directory"
    return "no record of the database tells of it: only its copies are there"


def _print_copies(
    copies: Sequence[Mapping[str, Any]], now: datetime, unseen: Sequence[str]
) -> None:
    """The copies of one VM, each with what is known of it."""
    say(
        "Copies:"
        if copies
        else "No copies were found where one could look."
        if unseen
        else "No copies."
    )
    told = ""
    for copy in copies:
        age = text.how_old(text.seconds_since(copy["finished"], now))
        say(
            f"  {copy['stamp']}  {text.size(copy['size'])}, {age}, "
            f"{state(copy)}{', archived' * copy['archived']}"
        )
        if copy["engine"] and (how := made(copy)) != told:  # once, for copies made in the same way
            say(f"    {how}")
            told = how
        for line in hold_words.lines_of_copy(copy["holds"]):
            say(f"    {pasteable(line)}")
        if copy["suspect"]:
            say(f"    suspect: it has blocks in common with {copy['suspect']}, which is damaged")
        if copy["verified"]:
            say(
                f"    verified {text.local(copy['verified']['time'])}: {copy['verified']['result']}"
            )
        for line in rehearsal_lines(copy["rehearsed"]) if copy["rehearsed"] else ():
            say(f"    {line}")
        if copy["screenshot"]:
            say(f"    what its guest showed then: {copy['screenshot']}")


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
    if copy["not_paused"]:
        said += f"; live, not paused: {copy['not_paused']}"
    wire = copy["wire"]
    if wire and wire["copied"]:
        said += f"; {text.size(wire['sent'])} sent, {text.size(wire['copied'])} copied on the NAS"
    elif wire and wire["reason"] and copy["engine"] == "parallel":
        said += f"; all of it sent: {wire['reason']}"
    return said


def _judged(verdict: Verdict) -> list[tuple[str, str]]:
    remedy = verdict.remedy if "vmbackup-admin show " not in verdict.remedy else ""
    return [
        ("Verdict", f"{verdict.level.name}: {reasons(verdict)}"),
        ("Remedy", pasteable(remedy)),
    ]


def _restored(back: Mapping[str, Any] | None) -> str:
    if back is None:
        return ""
    return f"{text.local(back['when'])} on {back['node']} as {back['name']} ({back['stamp']})"


def _facts(row: Mapping[str, Any], found: str, now: datetime) -> list[tuple[str, str]]:
    copy, claim = row["last_copy"], row["claim"]
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
        ("Last restored", _restored(row["restored"])),
        ("Failures in a row", str(row["failures"] or "")),
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
