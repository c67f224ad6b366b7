"""`vmbackup-admin metrics`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.output import print_json, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.reports.metrics import Metric


@documented(
    example="""
        vmbackup-admin metrics
        vmbackup-admin metrics --output /var/lib/prometheus/node-exporter/vmbackup.prom
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, at once: a new one, or older metrics. Its name should end in .prom.",
)
@json_option
@pass_invocation
def command(invocation: Invocation, *, output: Path | None, as_json: bool) -> None:
    """The backups as Prometheus reads them: for the textfile collector of node_exporter.

    One host writes the metrics of all. `metrics.file` in its configuration has its `database`
    worker do so at each tick. If they cannot be made, the file stays as it is, and its age tells.
    Takes no lock and writes nothing on the NAS.
    """
    from shared.reports import metrics_file
    from shared.reports.whole_file import Kept

    if output is not None or not as_json:
        metrics_file.require_prometheus_client()
    site = invocation.site(reading=True)
    found = metrics_file.collected(site)
    if output is not None:
        kept = Kept(site.configuration.nas, site.database.head().contents)
        metrics_file.write(output, metrics_file.rendered(found), kept)
    if as_json:
        print_json({"schema": 1, "file": output and str(output), "metrics": _rows(found)})
    elif output is not None:
        say(f"wrote {output}")
    else:
        for line in metrics_file.rendered(found).decode().removesuffix("\n").split("\n"):
            say(line)


def _rows(metrics: "Sequence[Metric]") -> list[dict[str, Any]]:
    return [
        {
            "name": metric.name,
            "labels": dict(zip(metric.labels, labels, strict=True)),
            "value": value,
        }
        for metric in metrics
        for labels, value in metric.samples
    ]
