"""A VM on the page: its state, its age against what is allowed, its days and its copies. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.reports.page import days
from shared.reports.page.days import DayMark, Past
from shared.state.records import VmRecord
from shared.state.sessions.host_look import HostLook
from shared.state.states import State
from shared.tasks.judgement import Bounds, Moment, Verdict
from shared.tasks.vm_copies import last_read
from shared.tasks.vm_judgement import used_seconds

#: So many copies of a VM are listed, the newest first.
LISTED = 10


@dataclass(frozen=True, slots=True)
class CopyRow:
    """A copy and what is known of it. Times as the sidecar has them; empty: none."""

    stamp: str
    finished: str
    size: int
    words: str
    good: bool
    read: str
    rehearsed: str


@dataclass(frozen=True, slots=True)
class VmRow:
    """One VM. `waits` is since when it is used without a copy, or not looked at: `allowed` seconds.

    `waits_for` says which of the two, in words; None: neither matters.
    """

    name: str
    host: str
    status: str
    level: str
    reason: str
    copied: str
    waits: float | None
    waits_for: str
    allowed: float
    passed: float
    marks: Sequence[DayMark]
    sizes: Sequence[tuple[int, int]]
    copies: Sequence[CopyRow]
    count: int
    size: int
    looked_up: bool


def vm_row(
    record: VmRecord,
    verdict: Verdict,
    look: HostLook | None,
    now: Moment,
    bounds: Bounds,
    copies: Sequence[Copy] | None,
    past: Past,
) -> VmRow:
    """The row of a VM. `copies`: None if one could not look."""
    known = list(copies or ())
    finished = {copy.stamp: (copy.sidecar.finished, copy.size) for copy in known if copy.sidecar}
    # one that VirtualBox would not import is of a backup that failed
    counted = {copy.sidecar.finished[:10] for copy in known if copy.sidecar and not copy.refused}
    passed, waits_for = _waits(record, look, now)
    return VmRow(
        record.key,
        record.node,
        str(record.status),
        verdict.level.name,
        "; also ".join(one.reason for one in (verdict, *verdict.also)),
        record.last_copy.finished if record.last_copy else "",
        None if passed is None else now.host - passed,
        waits_for,
        bounds.max_age_seconds,
        passed or 0.0,
        days.strip(record, look, past, counted),
        days.sizes(record, past, finished),
        [_copy(copy, record) for copy in reversed(known[-LISTED:])],
        len(known),
        sum(copy.size for copy in known),
        copies is not None,
    )


def _waits(record: VmRecord, look: HostLook | None, now: Moment) -> tuple[float | None, str]:
    """For how long a VM waits for what must come within its allowed age, and for what."""
    if record.status == State.ARCHIVED or record.left_out:
        return None, ""
    if record.status != State.CLEAN:
        return used_seconds(record, look, now), "in use, not copied since"
    looked = look.vms.get(record.uuid) if look else None
    return (None if looked is None else max(0.0, now.nas - looked)), "looked at"


def _copy(copy: Copy, record: VmRecord) -> CopyRow:
    side = copy.sidecar
    trial = side.rehearsed if side else None
    rehearsed = f"{trial.result}{', booted' * trial.booted}, {trial.time[:10]}" if trial else ""
    if copy.screenshot:
        rehearsed += f", screenshot in {copy.directory.name}/{final_name(copy.stamp, 'png')}"
    return CopyRow(
        copy.stamp,
        side.finished if side else "",
        copy.size,
        state(copy, disputed=copy.stamp in record.order_unknown),
        copy.good,
        (last_read(side) if side else None) or "",
        rehearsed,
    )


def state(copy: Copy, *, disputed: bool) -> str:
    """What is to be said of a copy: what is wrong with it, or that it is good."""
    return copy.problem or "".join(
        (
            "good",
            ", not read in full" * (copy.sidecar is not None and not copy.sidecar.read_in_full),
            ", suspect" * copy.suspect,
            ", pinned" * copy.pinned,
            ", held" * bool(copy.holds),
            ", order unknown" * disputed,
        )
    )
