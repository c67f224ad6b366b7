"""What stands on the page, part by part. Pure: what is known is an argument.

Moments are seconds since the epoch by the writer's clock, never ages: the page is read later. Names
are as they are: the template makes them harmless.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shared.copies.catalogue import Copy
from shared.nas.mount import NasStatus
from shared.reports.page.days import Past
from shared.reports.page.forecast import forecast
from shared.reports.page.vms import VmRow, vm_row
from shared.reports.space_history import Sample
from shared.state.contents import Contents
from shared.state.records import Claim, VmRecord
from shared.state.sessions.host_look import SILENT_AFTER, UNKNOWN_INTERVAL_SECONDS
from shared.tasks.judgement import GRAVITY, Bounds, Level, Verdict
from shared.tasks.sentences import answer, one_by_one, what_is_wrong
from shared.tasks.verdicts import Verdicts


@dataclass(frozen=True, slots=True)
class KnownToPage:
    """All that the page is made of. `written`: now, by this host's clock.

    `copies` has, by the key of a VM, what lies on the NAS, the oldest first, where one could look.
    `beats` is what sessions say of themselves, `samples` what was free on the NAS on earlier days,
    `minutes` how often the page is written at least.
    """

    written: float
    version: str
    node: str
    repository: str
    generation: int
    nas: NasStatus
    reserve: int
    contents: Contents
    judged: Verdicts
    bounds: Mapping[str, Bounds]
    past: Past
    copies: Mapping[str, Sequence[Copy]] = field(default_factory=dict)
    beats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    minutes: float = 30


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not all right, since when, and the command that mends it."""

    level: str
    subject: str
    reason: str
    since: float | None
    remedy: str


@dataclass(frozen=True, slots=True)
class Running:
    """Something that a host does now to a VM, and how far it is in percent, if that is known."""

    vm: str
    what: str
    host: str
    since: str
    percent: float | None


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host: its level, when it last looked by the NAS's clock, and how its workers ended."""

    name: str
    level: str
    reason: str
    looked: float | None
    vms: int
    workers: Sequence[tuple[str, int, str]]


@dataclass(frozen=True, slots=True)
class NasRow:
    """The NAS: bytes, and when it will be full."""

    level: str
    reason: str
    free: int
    total: int
    reserve: int
    forecast: str


@dataclass(frozen=True, slots=True)
class PageContents:
    """All of the page. It counts until `valid` seconds after `written`."""

    written: float
    valid: float
    node: str
    version: str
    repository: str
    generation: int
    level: str
    answer: str
    problems: Sequence[Problem]
    running: Sequence[Running]
    vms: Sequence[VmRow]
    hosts: Sequence[HostRow]
    nas: NasRow
    days: Sequence[str]


def page(known: KnownToPage) -> PageContents:
    """The page of all that is known."""
    judged = known.judged
    about = {verdict.subject: verdict for verdict in judged.vms}
    rows = [
        vm_row(
            record,
            about[record.key],
            known.judged.looks.get(record.node),
            judged.now,
            known.bounds[record.key],
            known.copies.get(record.key),
            known.past,
        )
        for record in known.contents.vms.values()
    ]
    return PageContents(
        known.written,
        validity(known),
        known.node,
        known.version,
        known.repository,
        known.generation,
        judged.level.name,
        answer(judged),
        [_problem(one, known.written) for one in one_by_one(what_is_wrong(judged))],
        [
            _running(record, record.claim, known)
            for record in known.contents.vms.values()
            if record.claim is not None
        ],
        sorted(rows, key=lambda row: (-GRAVITY.index(Level[row.level]), row.name)),
        [_host(verdict, known) for verdict in judged.hosts],
        _nas(known),
        known.past.days,
    )


def _nas(known: KnownToPage) -> NasRow:
    judged, room = known.judged.nas, known.nas
    now = datetime.fromtimestamp(known.written, UTC)
    when = forecast(known.samples, room.free, known.reserve, now)
    return NasRow(judged.level.name, judged.reason, room.free, room.total, known.reserve, when)


def validity(known: KnownToPage) -> float:
    """For how many seconds the page counts: it is written again sooner, unless nobody looks.

    A tick of the host that writes it may be late, or fail once.
    """
    own = known.judged.looks.get(known.node)
    interval = own.interval_seconds if own else UNKNOWN_INTERVAL_SECONDS
    return 60 * known.minutes + (SILENT_AFTER - 1) * interval


def _problem(verdict: Verdict, written: float) -> Problem:
    return Problem(
        verdict.level.name,
        verdict.subject,
        verdict.reason,
        None if verdict.seconds is None else written - verdict.seconds,
        verdict.remedy or "vmbackup-admin doctor",
    )


def _running(record: VmRecord, claim: Claim, known: KnownToPage) -> Running:
    beat = known.beats.get(claim.session, {})
    if beat.get("vm") not in (record.key, record.name):
        beat = {}
    phase, percent = beat.get("phase"), beat.get("percent")
    percent = float(percent) if type(percent) is int else percent
    session = known.contents.sessions.get(claim.session)
    return Running(
        record.key,
        f"{claim.purpose}: {phase}" if phase and isinstance(phase, str) else claim.purpose,
        session.node if session else "",
        claim.since,
        min(100.0, max(0.0, percent)) if isinstance(percent, float) else None,
    )


def _host(verdict: Verdict, known: KnownToPage) -> HostRow:
    look = known.judged.looks.get(verdict.subject)
    return HostRow(
        verdict.subject,
        verdict.level.name,
        verdict.reason,
        look.looked if look else None,
        sum(record.node == verdict.subject for record in known.contents.vms.values()),
        [(name, end.code, end.when) for name, end in sorted(look.workers.items())] if look else [],
    )
