"""What Prometheus is told of the backups: names, meanings, and values. Pure.

Times are seconds since the epoch, never ages: an age is wrong as soon as it is written. What is not
known has no sample, which is what an alert can ask for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.copies.sidecar import Sidecar
from shared.host.clock import parse_timestamp
from shared.nas.mount import NasStatus
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.tasks.judgement import Verdict
from shared.tasks.verdicts import Verdicts

OF_VM: Final = ("vm", "host")
OF_HOST: Final = ("host",)
_LEVELS: Final = "0 OK, 1 warning, 2 critical, 3 unknown"


@dataclass(frozen=True, slots=True)
class Metric:
    """One gauge: its name, what it means, and its value for each combination of labels."""

    name: str
    meaning: str
    labels: Sequence[str]
    samples: Sequence[tuple[Sequence[str], float]]


@dataclass(frozen=True, slots=True)
class CopiesOfVm:
    """What lies on the NAS of a VM: how many copies, their bytes, and the facts of the newest."""

    count: int
    size: int
    newest: Sidecar | None = None


@dataclass(frozen=True, slots=True)
class KnownToMetrics:
    """All that metrics are made of. `written`: now, seconds since the epoch by this host's clock.

    `copies` has, by the key of a VM, what lies on the NAS, where one could look.
    """

    written: float
    version: str
    repository: str
    nas: NasStatus
    reserve: int
    contents: Contents
    judged: Verdicts
    copies: Mapping[str, CopiesOfVm] = field(default_factory=dict)


def metrics(known: KnownToMetrics) -> list[Metric]:
    """All metrics, those of the whole before those of hosts and of VMs."""
    return [*_of_all(known), *_of_hosts(known), *_of_vms(known), *_of_copies(known)]


def _of_all(known: KnownToMetrics) -> Iterable[Metric]:
    def single(name: str, meaning: str, value: float) -> Metric:
        return Metric(f"vmbackup_{name}", meaning, (), [((), value)])

    labels = (known.version, known.repository)
    yield Metric(
        "vmbackup_info", "Release and database.", ("version", "repository"), [(labels, 1.0)]
    )
    yield single(
        "written_timestamp_seconds",
        "When these metrics were written: an old file says nothing.",
        known.written,
    )
    yield single("level", f"What check says of everything: {_LEVELS}.", known.judged.level)
    yield single("nas_level", f"What check says of the NAS: {_LEVELS}.", known.judged.nas.level)
    yield single("nas_size_bytes", "Size of the NAS.", known.nas.total)
    yield single("nas_free_bytes", "Free on the NAS.", known.nas.free)
    yield single("nas_reserve_bytes", "Below so much free space no backup begins.", known.reserve)


def _of_hosts(known: KnownToMetrics) -> Iterable[Metric]:
    verdicts = known.judged.hosts
    looks = {host: look for host, look in known.judged.looks.items() if look is not None}
    yield Metric(
        "vmbackup_host_level",
        f"What check says of a host: {_LEVELS}.",
        OF_HOST,
        [((verdict.subject,), float(verdict.level)) for verdict in verdicts],
    )
    yield _kinds("vmbackup_host_verdict", OF_HOST, [((one.subject,), one) for one in verdicts])
    yield Metric(
        "vmbackup_host_last_run_timestamp_seconds",
        "When the workers of a host last looked at its VMs, by the NAS's clock.",
        OF_HOST,
        [((host,), look.looked) for host, look in looks.items()],
    )
    yield Metric(
        "vmbackup_host_worker_exit_code",
        "How a worker of a host last ended.",
        ("host", "worker"),
        [
            ((host, worker), float(end.code))
            for host, look in looks.items()
            for worker, end in look.workers.items()
        ],
    )


def _of_vms(known: KnownToMetrics) -> Iterable[Metric]:
    hosts = {record.key: record.node for record in known.contents.vms.values()}
    verdicts = [((one.subject, hosts[one.subject]), one) for one in known.judged.vms]

    yield Metric(
        "vmbackup_vm_level",
        f"What check says of a VM: {_LEVELS}.",
        OF_VM,
        [(labels, float(one.level)) for labels, one in verdicts],
    )
    yield _kinds(
        "vmbackup_vm_verdict",
        OF_VM,
        [(labels, each) for labels, one in verdicts for each in (one, *one.also)],
    )
    yield from _of_records(known)


def _of_records(known: KnownToMetrics) -> Iterable[Metric]:
    records = list(known.contents.vms.values())
    looks = known.judged.looks

    def each(name: str, meaning: str, values: Iterable[tuple[VmRecord, float | None]]) -> Metric:
        samples = [
            ((record.key, record.node), value) for record, value in values if value is not None
        ]
        return Metric(f"vmbackup_vm_{name}", meaning, OF_VM, samples)

    yield each(
        "last_copy_timestamp_seconds",
        "When the newest good copy of a VM was finished.",
        ((one, _epoch(one.last_copy.finished)) for one in records if one.last_copy),
    )
    yield each(
        "last_look_timestamp_seconds",
        "When a VM was last looked at, by the NAS's clock.",
        ((one, look.vms.get(one.uuid)) for one in records if (look := looks.get(one.node))),
    )
    yield each(
        "last_full_read_timestamp_seconds",
        "When that of a VM's good copies whose last full reading is longest ago was read.",
        ((one, _epoch(one.verified)) for one in records),
    )
    yield each(
        "failures",
        "Backups of a VM that failed in a row.",
        ((one, float(one.failures)) for one in records),
    )
    yield each(
        "damaged_copies",
        "Copies of a VM that were found damaged and are still there.",
        ((one, float(len(one.damaged))) for one in records),
    )


def _of_copies(known: KnownToMetrics) -> Iterable[Metric]:
    found = [((key, known.contents.vms[key].node), copies) for key, copies in known.copies.items()]
    newest = [(labels, copies.newest) for labels, copies in found if copies.newest is not None]
    sent = [(labels, one.wire) for labels, one in newest if one.wire is not None]

    def each(name: str, meaning: str, samples: Sequence[tuple[Sequence[str], float]]) -> Metric:
        return Metric(f"vmbackup_vm_{name}", meaning, OF_VM, samples)

    yield each(
        "copies",
        "Copies of a VM on the NAS.",
        [(labels, float(copies.count)) for labels, copies in found],
    )
    yield each(
        "copies_bytes",
        "What the copies of a VM take, where no blocks are shared.",
        [(labels, float(copies.size)) for labels, copies in found],
    )
    yield each(
        "last_backup_duration_seconds",
        "How long the newest copy of a VM took.",
        [(labels, float(one.duration_seconds)) for labels, one in newest],
    )
    yield each(
        "last_backup_disk_bytes",
        "What a VM's disks took on its host at its newest copy.",
        [(labels, float(one.source_bytes)) for labels, one in newest],
    )
    yield each(
        "last_backup_sent_bytes",
        "What was sent to the NAS for the newest copy of a VM.",
        [(labels, float(one.sent)) for labels, one in sent],
    )
    yield each(
        "last_backup_copied_bytes",
        "What the NAS itself copied for the newest copy of a VM.",
        [(labels, float(one.copied)) for labels, one in sent],
    )


def _kinds(
    name: str, labels: Sequence[str], verdicts: Sequence[tuple[Sequence[str], Verdict]]
) -> Metric:
    samples = [((*whose, one.kind), 1.0) for whose, one in verdicts]
    return Metric(
        name, "Why, in one word: the kinds of docs/monitoring.md.", (*labels, "kind"), samples
    )


def _epoch(stamp: str) -> float | None:
    try:
        return parse_timestamp(stamp).timestamp()
    except ValueError:
        return None
