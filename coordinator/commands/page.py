"""`vmbackup-admin page`."""

from dataclasses import asdict
from pathlib import Path

import click

from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode, UsageError
from shared.output import print_json, say


@documented(
    example="""
        vmbackup-admin page --output /tmp/backups.html
        vmbackup-admin page --json | jq '.page.problems[].remedy'
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, at once: a new one, or an older page. Its name should end in .html.",
)
@json_option
@pass_invocation
def command(invocation: Invocation, *, output: Path | None, as_json: bool) -> None:
    """All backups at a glance: one HTML file for a browser, which loads nothing from elsewhere.

    `page.file` in the configuration has workers write it, by default beside the database. If it
    cannot be made, the file stays as it is, and says itself when it does not count any more. Takes
    no lock and writes nothing else.
    """
    if output is None and not as_json:
        raise UsageError("--output is missing", hint="where shall the page be written?")
    from shared.reports.page import collecting, file, rendering
    from shared.reports.whole_file import Kept

    if output is not None:
        rendering.require_jinja()
    site = invocation.site(reading=True)
    made = collecting.collected(site)
    if output is not None:
        kept = Kept(site.configuration.nas, site.database.head().contents)
        file.write(output.absolute(), rendering.rendered(made), kept)
    if as_json:
        print_json({"schema": 1, "file": output and str(output), "page": asdict(made)})
    elif output is not None:
        say(f"wrote {output}: {output.absolute().as_uri()}")
