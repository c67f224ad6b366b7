"""The metrics as a file for the textfile collector of node_exporter."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from shared.copies import sidecar_files
from shared.copies.names import final_name, parse_final
from shared.host.errors import CopyError, NasError, VmBackupError
from shared.host.extras import require_extra
from shared.host.printable import printable
from shared.nas.reading import look
from shared.reports.metrics import CopiesOfVm, KnownToMetrics, Metric, metrics
from shared.reports.whole_file import FileKind, Kept, replace_file
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks.verdicts import judge

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


def require_prometheus_client() -> None:
    """Raises `ConfigurationError` if the package that writes metrics is not installed."""
    require_extra("metrics", "prometheus_client", "prometheus-client", "metrics are written by")


def collected(site: Site) -> list[Metric]:
    """The metrics of all that this host can see.

    Reads the database, and of each VM its directory and the sidecar of its newest copy. Raises what
    reading the database raises.
    """
    snapshot = site.database.head()
    contents = snapshot.contents
    known = KnownToMetrics(
        written=site.clock.now().timestamp(),
        version=metadata.version("vmbackup"),
        repository=snapshot.header.repository,
        nas=site.nas,
        reserve=site.configuration.nas.reserve,
        contents=contents,
        judged=judge(site, contents),
        copies=_copies(site, contents.vms.values()),
    )
    return metrics(known)


def write(path: Path, data: bytes, kept: Kept) -> None:
    """Puts metrics in the place of those before, at once: a reader sees the old or the new ones.

    Raises `UsageError` that says why it cannot.
    """
    replace_file(path, data, FileKind.METRICS, kept)


def _copies(site: Site, records: Iterable[VmRecord]) -> Mapping[str, CopiesOfVm]:
    found = {}
    for record in records:
        with contextlib.suppress(VmBackupError):  # an archive that is not there, and the like
            found[record.key] = _of(site, record)
    return found


def _of(site: Site, record: VmRecord) -> CopiesOfVm:
    stamp = record.last_copy.stamp if record.last_copy else ""
    count = size = 0
    newest = None
    for directory, _archived in site.directories(record):
        try:
            entries = look(directory)
        except OSError as error:
            raise NasError(f"cannot list {directory}: {error.strerror}") from None
        for name, entry in entries.items():
            if entry.is_file and (final := parse_final(name)):
                size += entry.size
                count += final[1] == "ova"
        if stamp and final_name(stamp, "json") in entries:
            with contextlib.suppress(CopyError, OSError):
                newest = sidecar_files.read(directory, stamp)
    return CopiesOfVm(count, size, newest)


def rendered(all_metrics: Iterable[Metric]) -> bytes:
    """Metrics as Prometheus reads them. Raises `ConfigurationError` without the extra."""
    require_prometheus_client()
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector

    class Collected(Collector):
        def collect(self) -> "Iterator[GaugeMetricFamily]":
            for metric in all_metrics:
                family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in metric.samples:
                    family.add_metric([_text(label) for label in labels], value)
                yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    return bytes(generate_latest(registry))


def _text(label: str) -> str:
    """A label of printable characters in one line, another one for each text.

    Whoever reads lines at more than line feeds, or shows them in a terminal, finds no others.
    """
    return printable(label.replace("\\", "\\\\"))
