"""A report: what became of each VM in some time, how it stands, and what is due next. Pure.

How things stand is the one judgement, what happened are the commits; nothing is judged here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from shared.copies.sidecar import Sidecar
from shared.host.clock import parse_timestamp, timestamp
from shared.host.configuration import VmPolicy
from shared.reports.happenings import Happening
from shared.state.records import VmRecord
from shared.state.states import State
from shared.tasks.judgement import GRAVITY, Level, Verdict

#: What a report leaves to the log: they are steps on the way to something that it tells.
_STEPS: Final = frozenset({"began", "touched", "put-back", "started", "used", "died", "in-place"})
#: What is counted, in the order in which it is said.
_COUNTED: Final[Mapping[str, tuple[str, ...]]] = {
    "backed up": ("copied",),
    "failed": ("failed",),
    "put off": ("skipped", "interrupted"),
    "read in full": ("verified",),
    "damaged": ("damaged",),
    "gone from the NAS": ("vanished",),
    "rehearsed": ("rehearsed",),
    "would not come back": ("unrestorable",),
    "removed": ("removed",),
}
_RUNNING: Final = {
    "savestate": "saved",
    "shutdown": "shut down",
    "live": "copied while it runs",
    "pause": "paused for a moment",
}


@dataclass(frozen=True, slots=True)
class CopyTraffic:
    """Bytes of backups: read from the disks, sent to the NAS, and copied by the NAS itself."""

    read: int = 0
    sent: int = 0
    copied: int = 0

    def __add__(self, other: "CopyTraffic") -> "CopyTraffic":
        return CopyTraffic(
            self.read + other.read, self.sent + other.sent, self.copied + other.copied
        )


@dataclass(frozen=True, slots=True)
class VmNews:
    """One VM in a report. `verdict` is None, and `due` empty, if its record is gone."""

    vm: str
    host: str
    verdict: Verdict | None
    happened: tuple[Happening, ...]
    traffic: CopyTraffic
    due: tuple[str, ...] = ()

    @property
    def told(self) -> list[Happening]:
        """What a report tells of all that happened to it."""
        return [each for each in self.happened if each.kind not in _STEPS]

    @property
    def is_quiet(self) -> bool:
        """Whether nothing happened to it, and nothing is wrong with it."""
        return not self.told and self.verdict is not None and self.verdict.level == Level.OK


@dataclass(frozen=True, slots=True)
class PeriodReport:
    """What is told. `unknown`: of so many commits it is not known what happened."""

    since: datetime
    until: datetime
    level: Level
    nas: Verdict
    hosts: tuple[Verdict, ...]
    vms: tuple[VmNews, ...]
    unknown: int = 0
    others: tuple[Happening, ...] = field(default=())

    @property
    def traffic(self) -> CopyTraffic:
        """That of all VMs."""
        return sum((vm.traffic for vm in self.vms), CopyTraffic())

    @property
    def counts(self) -> dict[str, int]:
        """Of how many VMs it is told that they were backed up, failed and so on; 0 left out.

        Of copies that were read, rehearsed or removed each counts.
        """
        found: Counter[str] = Counter()
        for vm in self.vms:
            kinds = Counter(each.kind for each in vm.happened)
            for word, counted in _COUNTED.items():
                number = sum(kinds[kind] for kind in counted)
                found[word] += min(number, 1) if word in ("failed", "put off") else number
        return {word: found[word] for word in _COUNTED if found[word]}


def make(
    records: Iterable[VmRecord],
    verdicts: Mapping[str, Verdict],
    happened: Sequence[Happening],
    traffic: Mapping[str, CopyTraffic],
    due: Mapping[str, tuple[str, ...]],
) -> tuple[VmNews, ...]:
    """What is told of each VM, the worst first. `traffic` and `due` are by the key of the VM."""
    hosts = {record.key: record.node for record in records}
    by_vm: dict[str, list[Happening]] = {key: [] for key in hosts}
    for each in happened:
        if each.vm:
            by_vm.setdefault(each.vm, []).append(each)
    news = [
        VmNews(
            key,
            hosts.get(key, own[-1].host if own else ""),
            verdicts.get(key),
            tuple(own),
            traffic.get(key, CopyTraffic()),
            due.get(key, ()),
        )
        for key, own in by_vm.items()
    ]
    return tuple(sorted(news, key=lambda vm: (_rank(vm.verdict), vm.vm)))


def _rank(verdict: Verdict | None) -> int:
    return -GRAVITY.index(verdict.level) if verdict else 0


def traffic_of(copies: Iterable[Sidecar]) -> CopyTraffic:
    """What making these copies moved."""
    return sum(
        (
            CopyTraffic(
                max(0, copy.source_bytes - copy.unread),
                copy.wire.sent if copy.wire else copy.size,
                copy.wire.copied if copy.wire else 0,
            )
            for copy in copies
        ),
        CopyTraffic(),
    )


def due_next(record: VmRecord, policy: VmPolicy) -> Iterator[str]:
    """What will be done with a VM next, and when, as far as its record and its policy tell."""
    if record.status == State.ARCHIVED or record.left_out or record.missing_since:
        return
    yield _backup_due(record, policy)
    if not record.last_copy or not policy.verify_days:
        return
    if read := _moment(record.verified):
        by = read + timedelta(days=policy.verify_days)
        yield f"a copy of it is read in full again on {by:%Y-%m-%d}"


def _backup_due(record: VmRecord, policy: VmPolicy) -> str:
    # what stays of one that had a copy: when it was read, or that it is damaged
    had_one = record.last_copy or record.verified or record.damaged
    first = "backup" if had_one else "first backup"
    if record.status == State.BACKUP_IN_PROGRESS:
        return "it is being backed up"
    if record.status == State.RUNNING and policy.running == "defer":
        return f"its {first} is made when it has stopped"
    if record.status == State.RUNNING:
        last = _moment(record.backed_up or (record.last_copy.finished if record.last_copy else ""))
        when = (
            f"on {last + timedelta(hours=policy.running_hours):%Y-%m-%d %H:%MZ}" if last else "now"
        )
        return f"its {first} is due {when}, or when it has stopped: {_RUNNING[policy.running]}"
    if record.status == State.CLEAN:
        return "it is backed up again when it was used"
    waits = f": {record.waiting}" if record.waiting else ""
    window = f", {policy.window}" if policy.window and not waits else ""
    return f"its {first} is due{window}{waits}"


def _moment(stamp: str) -> datetime | None:
    try:
        return parse_timestamp(stamp)
    except ValueError:
        return None


def to_json(report: PeriodReport) -> dict[str, Any]:
    """As `report --json` shows it."""
    return {
        "schema": 1,
        "since": timestamp(report.since),
        "until": timestamp(report.until),
        "level": report.level.name,
        "counts": report.counts,
        "traffic": _traffic(report.traffic),
        "commits_unknown": report.unknown,
        "nas": report.nas.document(),
        "hosts": [host.document() for host in report.hosts],
        "vms": [
            {
                "vm": vm.vm,
                "host": vm.host,
                "verdict": vm.verdict.document() if vm.verdict else None,
                "events": [each.to_json() for each in vm.happened],
                "traffic": _traffic(vm.traffic),
                "due": list(vm.due),
            }
            for vm in report.vms
        ],
        "events": [each.to_json() for each in report.others],
    }


def _traffic(traffic: CopyTraffic) -> dict[str, int]:
    return {"read": traffic.read, "sent": traffic.sent, "copied": traffic.copied}
