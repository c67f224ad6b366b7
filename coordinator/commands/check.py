"""`vmbackup-admin check`."""

import re
from collections.abc import Mapping
from typing import Any, Final

import click

from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import UsageError, VmBackupError
from shared.host.printable import one_line
from shared.output import pasteable, print_json, say
from shared.state.rules import vm_records
from shared.tasks.judgement import Level, Verdict
from shared.tasks.sentences import answer, one_by_one, said, what_is_wrong
from shared.tasks.verdicts import Verdicts, judge

#: The exit codes that monitoring programs expect of a check.
CODES: Final[Mapping[int, str]] = {
    Level.OK: "all is well",
    Level.WARNING: "something needs to be looked at",
    Level.CRITICAL: "a backup is missing, too old or damaged, or a host has stopped looking",
    Level.UNKNOWN: "nothing can be said: no database, no NAS, or nobody has looked yet",
}
_UNITS: Final = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def _age(value: str | None) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})([mhd])", value)
    if not found or not int(found[1]):
        raise UsageError(f"--max-age {value!r} must look like 90m, 26h or 2d")
    return int(found[1]) * _UNITS[found[2]]


@documented(
    example="""
        vmbackup-admin check
        vmbackup-admin check web01 --max-age 2d
        vmbackup-admin check --json | jq '.vms[] | select(.level != "OK")'
    """,
    meanings=CODES,
    unanswered=Level.UNKNOWN,
)
@click.argument("vms", type=VM, nargs=-1, metavar="[VM]...")
@click.option(
    "--max-age",
    metavar="AGE",
    help="How long a VM may be without a look or, if it was used, without a copy: 90m, 26h, 2d. "
    "Else max_age_hours of its policy.",
)
@json_option
@pass_invocation
def command(
    invocation: Invocation, *, vms: tuple[str, ...], max_age: str | None, as_json: bool
) -> int:
    """Is my backup all right? One sentence, and an exit code for monitoring (Nagios and its kin).

    A VM that was not used since its last copy is all right however old that is, as long as its host
    goes on looking. One that was used must have a copy within --max-age. Takes no lock and writes
    nothing.
    """
    try:
        max_age_seconds = _age(max_age)
        site = invocation.site(reading=True)
        contents = site.database.head().contents
        keys = [vm_records.meant(contents, vm).key for vm in vms]
        found = judge(site, contents, only=keys, max_age_seconds=max_age_seconds)
    except VmBackupError as error:
        return _nothing_known(error, as_json=as_json)
    if as_json:
        print_json(_document(found))
    else:
        for line in _lines(found):
            say(line)
    return int(found.level)


def _nothing_known(error: VmBackupError, *, as_json: bool) -> int:
    hint = pasteable(error.hint)
    if as_json:
        problem = {"message": error.message, "hint": hint}
        document = {"schema": 1, "level": Level.UNKNOWN.name, "error": problem}
        print_json({**document, "nas": None, "hosts": [], "vms": []})
    else:
        say(f"VMBACKUP UNKNOWN - {_plain(one_line(error.message + (hint and f' ({hint})')))}")
    return int(Level.UNKNOWN)


def _document(found: Verdicts) -> dict[str, Any]:
    return {
        "schema": 1,
        "level": found.level.name,
        "nas": found.nas.document(pasteable),
        "hosts": [verdict.document(pasteable) for verdict in found.hosts],
        "vms": [verdict.document(pasteable) for verdict in found.vms],
    }


def _lines(found: Verdicts) -> list[str]:
    """The sentence with performance data, then a line for each thing that is not all right."""
    each = one_by_one(what_is_wrong(found))
    sentence = f"VMBACKUP {found.level.name} - {_plain(pasteable(answer(found)))}"
    return [
        f"{sentence} | {_performance(found)}",
        *(_plain(f"{one.level.name}: {said(one)}{_cure(one)}") for one in each),
    ]


def _plain(sentence: str) -> str:
    """Without the character after which Nagios expects performance data."""
    return sentence.replace("|", "\N{BROKEN BAR}")


def _cure(verdict: Verdict) -> str:
    return f" - {pasteable(verdict.remedy)}" if verdict.remedy else ""


def _performance(found: Verdicts) -> str:
    """Performance data as Nagios reads it: numbers only, without names, which may hold anything."""
    levels = [verdict.level for verdict in found.vms]
    counts = [f"{level.name.lower()}={levels.count(level)}" for level in Level]
    looks = [found.now.nas - look.looked for look in found.looks.values() if look is not None]
    oldest = [f"oldest_look={max(0, round(max(looks)))}s"] if looks else []
    return " ".join([f"vms={len(levels)}", *counts, *oldest])
