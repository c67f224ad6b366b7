"""`vmbackup-admin status`."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from coordinator import clocks, database_reading, status_table, status_warnings, text
from coordinator.vm_rows import describe
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import HOST, VM
from shared.host.errors import ExitCode, UsageError
from shared.host.printable import printable
from shared.output import pasteable, print_json, say, warn
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import vm_records
from shared.state.store.snapshot import Snapshot
from shared.tasks import sentences
from shared.tasks.judgement import Level
from shared.tasks.verdicts import Verdicts, judge

if TYPE_CHECKING:
    from shared.site import Site

#: To the upper left corner; to the end of the screen nothing of before stays.
_HOME: Final = "\x1b[H"
_CLEAR_BELOW: Final = "\x1b[J"


@documented(
    example="""
        vmbackup-admin status
        vmbackup-admin status --problems --host host-a
        vmbackup-admin status --json | jq '.vms[] | select(.failures > 0)'
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("vms", type=VM, nargs=-1, metavar="[VM]...")
@click.option("--host", type=HOST, metavar="HOST", help="Only the VMs of this host.")
@click.option("--problems", is_flag=True, help="Only VMs of which `check` does not say OK.")
@click.option(
    "--watch",
    "seconds",
    type=click.FloatRange(1, 3600),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Show it anew every so many seconds (2), until ^C.",
)
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    *,
    vms: tuple[str, ...],
    host: str | None,
    problems: bool,
    seconds: float | None,
    as_json: bool,
) -> None:
    """All VMs, or some: state, last good copy, failures, progress of running exports.

    Takes no lock and writes nothing on the NAS: any user who may read the database may run it at
    any time. Monitoring should run `vmbackup-admin check`, which tells all right from not.
    """
    look = partial(_look, invocation, vms, host, problems=problems)
    if seconds is None:
        _show(look(), as_json=as_json)
        return
    if as_json:
        raise UsageError("--watch is for people: leave out --json")
    _watch(invocation, look, seconds)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found."""

    site: "Site"
    found: database_reading.Reading
    judged: Verdicts
    rows: list[dict[str, Any]]
    warnings: tuple[str, ...]
    #: What is said if there are VMs, and none that was asked for.
    none: str


def _watch(invocation: Invocation, look: Callable[[], _Seen], seconds: float) -> None:
    """Looks again and again; what was shown before stays until there is something newer."""
    from shared.host.clock import SystemClock

    clock = SystemClock()
    text.progress("looking for the first time …")
    while True:
        seen = look()
        # a context of its own: what was warned of before is warned of again
        with _replaced_screen(), click.Context(command, obj=invocation):
            say(f"{clock.now():%Y-%m-%d %H:%M:%S}Z, again every {seconds:g} s, until ^C")
            _show(seen, as_json=False)
        clock.sleep(seconds)


@contextlib.contextmanager
def _replaced_screen() -> Iterator[None]:
    """Within, what is printed takes the place of what was there, at once, without flicker."""
    if not sys.stdout.isatty():
        yield
        sys.stdout.write("\n")
        sys.stdout.flush()
        return
    sys.stdout.write(_HOME + _CLEAR_BELOW)
    yield
    sys.stdout.write(_CLEAR_BELOW)
    sys.stdout.flush()


def _look(
    invocation: Invocation, vms: tuple[str, ...], host: str | None, *, problems: bool
) -> _Seen:
    site = invocation.site(reading=True)
    found = database_reading.read(site)
    contents = found.snapshot.contents
    judged = judge(site, contents)
    warnings = (
        *found.warnings,
        *status_warnings.little_room(site, _sorted(found.snapshot)),
        *status_warnings.missing_reserve(site),
        *(f"host {sentences.said(host)}" for host in judged.hosts if host.level == Level.CRITICAL),
        *clocks.of_records(contents.vms.values(), site.clock.now()),
    )
    rows = _rows(site, found, judged, vms, host, problems=problems)
    whose = "the named" if vms else f"the {len(contents.vms)}"
    asked = [f"is on {printable(host)}"] if host else []
    asked += ["has a problem"] if problems else []
    none = f"None of {whose} VMs {' and '.join(asked)}."
    return _Seen(site, found, judged, rows, warnings, none)


def _show(seen: _Seen, *, as_json: bool) -> None:
    from coordinator.restore import in_place_waiting
    from shared.tasks import boots_here

    rows, number = seen.rows, len(seen.found.snapshot.contents.vms)
    state, vms = seen.site.configuration.host.state_directory, seen.found.snapshot.contents.vms
    booted = boots_here.shown(state)
    back = in_place_waiting.found(state, {record.uuid: key for key, record in vms.items()})
    if as_json:
        here = {"hosts": [verdict.document(pasteable) for verdict in seen.judged.hosts]}
        here["running_from_copies"] = [each.document for each in booted]
        here["taken_back"] = [dict(each.document) for each in back]
        print_json({**_document(seen.site, seen.found, seen.warnings, rows), **here})
        return
    for warning in seen.warnings:
        warn(warning)
    if rows:
        now = seen.site.clock.now()
        text.print_table(
            ["VM", "STATUS", "HOST", "LAST COPY", "SIZE", "FAILURES", "NOTES"],
            [status_table.columns(row, now) for row in rows],
        )
    if rows or not number:
        say(status_table.summary(rows))
    else:
        say(seen.none)
    for line in (*(each.line for each in booted), *(each.line for each in back)):
        say(pasteable(line))


def _rows(
    site: "Site",
    found: database_reading.Reading,
    judged: Verdicts,
    vms: tuple[str, ...],
    host: str | None,
    *,
    problems: bool,
) -> list[dict[str, Any]]:
    """The VMs that were asked for, with their verdicts."""
    contents = found.snapshot.contents
    named = {vm_records.meant(contents, vm).key for vm in vms}
    if host is not None:
        _require_host(contents, host)
    beats = {
        record.claim.session: database_reading.doing(site.database, record.claim.session)
        for record in contents.vms.values()
        if record.claim is not None
    }
    said = {verdict.subject: verdict for verdict in judged.vms}
    now = site.clock.now()
    return [
        {**describe(record, beats, now), "verdict": said[record.key].document(pasteable)}
        for record in _sorted(found.snapshot)
        if (not vms or record.key in named)
        and host in (None, record.node)
        and not (problems and said[record.key].level == Level.OK)
    ]


def _require_host(contents: Contents, host: str) -> None:
    known = sorted({record.node for record in contents.vms.values()} | set(contents.nodes))
    if host not in known:
        raise UsageError(
            f"no host of the state database is called {host!r}",
            hint=f"there are: {', '.join(map(printable, known))}" if known else "",
        )


def _sorted(snapshot: Snapshot) -> list[VmRecord]:
    return sorted(
        snapshot.contents.vms.values(),
        key=lambda record: (status_table.ORDER.index(record.status), record.key),
    )


def _document(
    site: "Site",
    found: database_reading.Reading,
    warnings: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
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
