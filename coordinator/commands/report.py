"""`vmbackup-admin report`."""

from datetime import datetime, timedelta
from pathlib import Path

import click

from coordinator import database_reading, text
from coordinator.options import since_option
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ExitCode
from shared.output import print_json, say, warn
from shared.state.rules import vm_records


@documented(
    example="""
        vmbackup-admin report
        vmbackup-admin report --since yesterday web01
        vmbackup-admin report --since "1 week ago" --html /srv/www/backups.html
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("vms", type=VM, nargs=-1, metavar="[VM]...")
@since_option
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report to this file, as HTML: a new one, or an older report.",
)
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    *,
    vms: tuple[str, ...],
    since: datetime | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """What became of each VM: backed up, failed, put off and why, verified, rehearsed, removed.

    The judgement of `check` comes first, then what happened, what was read and sent, and what is
    due next. Without --since it is of the last 24 hours. The setting `report` of [notify."TARGET"]
    has it sent daily or weekly. Takes no lock and writes nothing on the NAS.
    """
    from shared.reports import report_html, report_text, reporting
    from shared.reports.report import to_json
    from shared.reports.whole_file import FileKind, Kept, replace_file

    site = invocation.site(reading=True)
    found = database_reading.read(site)
    contents = found.snapshot.contents
    keys = [vm_records.meant(contents, vm).key for vm in vms]
    since = since or site.clock.now() - timedelta(days=1)
    text.progress("reading what was noted since then …")
    report = reporting.collect(site, contents, since, keys)
    text.progress("")
    for warning in found.warnings:
        warn(warning)
    if html is not None:
        page = report_html.page(report).encode("utf-8", "backslashreplace")
        replace_file(html, page, FileKind.REPORT, Kept(site.configuration.nas, contents))
    if as_json:
        print_json({**to_json(report), "warnings": list(found.warnings)})
    elif html is None:
        text.print_lines(report_text.lines(report))
    else:
        say(f"wrote {html}: {html.absolute().as_uri()}")
