"""The one judgement: a table of situations, and what may never be called all right."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from shared.state.records import Claim, CopyRecord, Power, RehearsalRecord, VmRecord
from shared.state.rules import sightings
from shared.state.sessions.host_look import HostLook, WorkerEnd
from shared.state.states import State
from shared.tasks.judgement import (
    Bounds,
    Level,
    Moment,
    judge_host,
    judge_nas,
    moment,
    worst,
)
from shared.tasks.vm_judgement import judge_vm

HOUR, DAY = 3600.0, 86400.0
#: 2026-11-22T20:38:00Z
NOW = 1795379880.0
BOUNDS = Bounds(26 * HOUR, 30)
REHEARSED = Bounds(26 * HOUR, 30, rehearse_days=30)
HERE = Moment(NOW, NOW, "beta", NOW - 30 * DAY)
RECENT, LONG_AGO = "2026-11-22T20:08:00Z", "2026-10-01T00:00:00Z"


def copied(finished: str = RECENT) -> CopyRecord:
    return CopyRecord("20261122T200800Z-1", 1, 10, "0" * 64, finished, {})


def tried(
    result: str = "good", *, days: float = 1, stamp: str = "20261122T200800Z-1"
) -> RehearsalRecord:
    """That a copy was rehearsed so many days ago."""
    when = datetime.fromtimestamp(NOW - days * DAY, UTC)
    return RehearsalRecord(stamp, f"{when:%Y-%m-%dT%H:%M:%SZ}", "beta", result)


def vm(status: State = State.CLEAN, **values: Any) -> VmRecord:
    settings: dict[str, Any] = {
        "last_copy": copied(LONG_AGO),
        "verified": RECENT,
        **values,
    }
    return VmRecord("web", "web", "uuid", "alpha", "web", status, LONG_AGO, **settings)


def looked(
    ago: float = 600, *, vm_ago: float | None = None, unchanged: float | None = None, **values: Any
) -> HostLook:
    """A host that looks every ten minutes, and did so for the last time `ago` seconds ago."""
    at = NOW - ago
    return HostLook(
        "alpha",
        "machine",
        at,
        at,
        at - 10 * DAY,
        tuple(at - 600 * number for number in (5, 4, 3, 2, 1)),
        vms={"uuid": at if vm_ago is None else NOW - vm_ago},
        unchanged={"uuid": at if unchanged is None else NOW - unchanged},
        **values,
    )


HOUR_AGO = "2026-11-22T19:38:00Z"
NEVER_UNCHANGED = replace(looked(), unchanged={})


def first(status: State, found: str) -> VmRecord:
    """A VM that never had a copy."""
    return replace(vm(status, last_copy=None, verified=""), found=found)


Situation = tuple[VmRecord, HostLook | None, Moment, Bounds, Level, str]


def situation(
    level: Level,
    kind: str,
    record: VmRecord,
    look: HostLook | None = None,
    now: Moment = HERE,
    bounds: Bounds = BOUNDS,
) -> Situation:
    return (record, look, now, bounds, level, kind)


CLAIM = Claim("alpha.1", 7, "backup", RECENT)
RULE = '[policy."web*"] backup = "never"'
UNUSABLE = {
    "last_error": sightings.cannot_use("VirtualBox cannot open its settings"),
    "last_error_at": HOUR_AGO,
}
SAVED = Power("savestate", "running", 7, since=HOUR_AGO, node="alpha")
OFTEN_OFF = replace(BOUNDS, may_be_off=True)
BACK = replace(HERE, back_since=NOW - 60)
SITUATIONS: Mapping[str, Situation] = {
    "unused, its copy is two months old": situation(Level.OK, "copied", vm(), looked()),
    "archived": situation(Level.OK, "archived", vm(State.ARCHIVED), None),
    "archived and damaged": situation(
        Level.CRITICAL, "damaged", vm(State.ARCHIVED, damaged=("x",)), None
    ),
    "clean, and nobody has ever looked": situation(Level.UNKNOWN, "unlooked", vm(), None),
    "clean, and its host is silent": situation(Level.CRITICAL, "unlooked", vm(), looked(2 * HOUR)),
    "clean, its host looks, but not at it": situation(
        Level.CRITICAL, "unlooked", vm(), looked(vm_ago=27 * HOUR)
    ),
    "clean on a laptop that is off": situation(
        Level.OK, "copied", vm(), looked(9 * DAY), bounds=OFTEN_OFF
    ),
    "clean, its host is silent since before we were back": situation(
        Level.UNKNOWN, "away", vm(), looked(2 * HOUR), now=BACK
    ),
    "on our own host, which is silent": situation(
        Level.CRITICAL, "unlooked", vm(), looked(2 * HOUR), now=replace(BACK, node="alpha")
    ),
    "VirtualBox cannot use it since an hour": situation(
        Level.WARNING, "unusable", vm(**UNUSABLE), looked(vm_ago=HOUR)
    ),
    "VirtualBox cannot use it for two days": situation(
        Level.WARNING, "unusable", vm(**UNUSABLE), looked(vm_ago=2 * DAY)
    ),
    "VirtualBox could never use it": situation(
        Level.WARNING, "unusable", vm(**UNUSABLE), replace(looked(), vms={})
    ),
    "VirtualBox cannot use it, and its host is silent": situation(
        Level.CRITICAL, "unlooked", vm(**UNUSABLE), looked(2 * HOUR)
    ),
    "VirtualBox cannot use it, and it was used two days ago": situation(
        Level.CRITICAL, "overdue", vm(State.RUNNING, **UNUSABLE), looked(unchanged=2 * DAY)
    ),
    "VirtualBox cannot use it, and its backup failed": situation(
        Level.WARNING,
        "unusable",
        vm(State.BACKUP_NECESSARY, failures=1, **UNUSABLE),
        looked(unchanged=HOUR),
    ),
    "VirtualBox cannot use it, and it is left out": situation(
        Level.OK, "left-out", vm(left_out=RULE, **UNUSABLE), looked()
    ),
    "runs since this morning": situation(
        Level.OK, "running", vm(State.RUNNING), looked(unchanged=9 * HOUR)
    ),
    "runs for two days": situation(
        Level.CRITICAL, "overdue", vm(State.RUNNING), looked(unchanged=2 * DAY)
    ),
    "used two days ago, copied an hour ago": situation(
        Level.OK, "running", vm(State.RUNNING, last_copy=copied()), looked(unchanged=2 * DAY)
    ),
    "waits for its window": situation(
        Level.OK,
        "waiting",
        vm(State.BACKUP_NECESSARY, waiting="waits for 22:00"),
        looked(unchanged=9 * HOUR),
    ),
    "failed once": situation(
        Level.WARNING,
        "failing",
        vm(State.BACKUP_NECESSARY, failures=1, last_error="no room", last_error_at=RECENT),
        looked(unchanged=9 * HOUR),
    ),
    "fails for two days": situation(
        Level.CRITICAL,
        "overdue",
        vm(State.BACKUP_NECESSARY, failures=9, last_error="no room"),
        looked(unchanged=2 * DAY),
    ),
    "new": situation(
        Level.OK, "new", replace(vm(State.NEW, last_copy=None, verified=""), found=RECENT), looked()
    ),
    "new for two months": situation(
        Level.CRITICAL,
        "overdue",
        vm(State.NEW, last_copy=None, verified=""),
        replace(looked(), unchanged={}),
    ),
    "its only copy was removed just now": situation(
        Level.WARNING,
        "uncopied",
        vm(State.BACKUP_NECESSARY, last_copy=None, verified="", backed_up=LONG_AGO),
        looked(),
    ),
    "its only copy was removed, and an older release did not note that it had one": situation(
        Level.WARNING, "uncopied", vm(State.RUNNING, last_copy=None, verified=""), looked()
    ),
    "its only copy was removed, and it waits for its window": situation(
        Level.WARNING,
        "uncopied",
        vm(State.BACKUP_NECESSARY, last_copy=None, backed_up=RECENT, waiting="waits for 22:00"),
        looked(),
    ),
    "its only copy was removed two days ago": situation(
        Level.CRITICAL,
        "overdue",
        vm(State.BACKUP_NECESSARY, last_copy=None, backed_up=LONG_AGO),
        looked(unchanged=2 * DAY),
    ),
    "found an hour ago, could be copied, and is not": situation(
        Level.WARNING, "uncopied", first(State.BACKUP_NECESSARY, HOUR_AGO), NEVER_UNCHANGED
    ),
    "found an hour ago, and nothing was done with it": situation(
        Level.WARNING, "uncopied", first(State.NEW, HOUR_AGO), NEVER_UNCHANGED
    ),
    "found in this tick, and waits": situation(
        Level.OK, "waiting", first(State.BACKUP_NECESSARY, RECENT), NEVER_UNCHANGED
    ),
    "found an hour ago, and waits for its window": situation(
        Level.OK,
        "waiting",
        replace(first(State.BACKUP_NECESSARY, HOUR_AGO), waiting="waits for 22:00"),
        NEVER_UNCHANGED,
    ),
    "found an hour ago, and runs since": situation(
        Level.OK, "running", first(State.RUNNING, HOUR_AGO), NEVER_UNCHANGED
    ),
    "found an hour ago, and is being copied for the first time": situation(
        Level.OK,
        "copying",
        replace(first(State.BACKUP_IN_PROGRESS, HOUR_AGO), claim=CLAIM),
        NEVER_UNCHANGED,
    ),
    "found a day ago, and fails": situation(
        Level.WARNING,
        "failing",
        replace(first(State.BACKUP_NECESSARY, HOUR_AGO), failures=3),
        NEVER_UNCHANGED,
    ),
    "is being copied for two days": situation(
        Level.CRITICAL,
        "overdue",
        vm(State.BACKUP_IN_PROGRESS, claim=CLAIM),
        looked(vm_ago=2 * DAY, unchanged=2 * DAY),
    ),
    "is being copied": situation(
        Level.OK,
        "copying",
        vm(State.BACKUP_IN_PROGRESS, claim=CLAIM),
        looked(vm_ago=2 * HOUR, unchanged=2 * HOUR),
    ),
    "gone from its host": situation(
        Level.WARNING, "gone", vm(missing_since=RECENT), replace(looked(), vms={})
    ),
    "a copy is damaged": situation(Level.CRITICAL, "damaged", vm(damaged=("x", "y")), looked()),
    "another host has it, too": situation(Level.WARNING, "twice", vm(also_on="beta"), looked()),
    "another host has it, too, and it is archived": situation(
        Level.OK, "archived", vm(State.ARCHIVED, also_on="beta"), looked()
    ),
    "its order is unknown": situation(
        Level.WARNING, "disputed", vm(order_unknown=("x", "y")), looked()
    ),
    "not verified for months": situation(
        Level.WARNING, "unverified", vm(verified="2026-08-01T00:00:00Z"), looked()
    ),
    "read six weeks ago, and no copy took anything over": situation(
        Level.OK, "copied", vm(verified="2026-10-10T00:00:00Z"), looked()
    ),
    "read six weeks ago, and its newest copy took that over": situation(
        Level.WARNING,
        "unverified",
        vm(verified="2026-10-10T00:00:00Z", last_copy=replace(copied(LONG_AGO), sha256="")),
        looked(),
    ),
    "read three weeks ago, and its newest copy took that over": situation(
        Level.OK,
        "copied",
        vm(verified="2026-11-01T00:00:00Z", last_copy=replace(copied(LONG_AGO), sha256="")),
        looked(),
    ),
    "verified in the future": situation(
        Level.WARNING, "unverified", vm(verified="2038-01-19T03:14:08Z"), looked()
    ),
    "rehearsed a week ago": situation(
        Level.OK, "copied", vm(rehearsed=tried(days=7)), looked(), bounds=REHEARSED
    ),
    "never rehearsed": situation(Level.OK, "copied", vm(), looked(), bounds=REHEARSED),
    "known for two months, and never rehearsed": situation(
        Level.WARNING,
        "unrehearsed",
        replace(vm(last_copy=copied()), found="2026-09-20T00:00:00Z"),
        looked(),
        bounds=REHEARSED,
    ),
    "known for two months, never rehearsed, and nobody wants that": situation(
        Level.OK, "copied", replace(vm(), found="2026-09-20T00:00:00Z"), looked()
    ),
    "known for two months, and without a copy that could be rehearsed": situation(
        Level.OK,
        "archived",
        replace(vm(State.ARCHIVED, last_copy=None, verified=""), found="2026-09-20T00:00:00Z"),
        looked(),
        bounds=REHEARSED,
    ),
    "rehearsed three months ago": situation(
        Level.WARNING, "unrehearsed", vm(rehearsed=tried(days=90)), looked(), bounds=REHEARSED
    ),
    "rehearsed three months ago by hand": situation(
        Level.OK, "copied", vm(rehearsed=tried(days=90)), looked()
    ),
    "its newest copy does not come back": situation(
        Level.WARNING, "unrestorable", vm(rehearsed=tried("it did nothing")), looked()
    ),
    "an older copy did not come back": situation(
        Level.OK, "copied", vm(rehearsed=tried("it did nothing", stamp="older")), looked()
    ),
    "an older copy did not come back, and the newest is going to be rehearsed": situation(
        Level.WARNING,
        "unrestorable",
        vm(rehearsed=tried("it did nothing", stamp="older")),
        looked(),
        bounds=REHEARSED,
    ),
    "left out, used two months ago, and never copied": situation(
        Level.OK,
        "left-out",
        vm(State.RUNNING, last_copy=None, verified="", left_out=RULE),
        replace(looked(), unchanged={}),
    ),
    "left out on a host that is silent": situation(
        Level.OK, "left-out", vm(State.NEW, last_copy=None, left_out=RULE), looked(9 * DAY)
    ),
    "left out after its last backup failed": situation(
        Level.OK,
        "left-out",
        vm(State.BACKUP_NECESSARY, failures=2, last_error="no room", left_out=RULE),
        looked(unchanged=9 * HOUR),
    ),
    "left out, and a copy is damaged": situation(
        Level.CRITICAL, "damaged", vm(damaged=("x",), left_out=RULE), looked()
    ),
    "left out, and its publication was interrupted": situation(
        Level.WARNING, "unfinished", vm(publishing=copied(), left_out=RULE), looked()
    ),
    "left out while its last backup runs": situation(
        Level.OK, "copying", vm(State.BACKUP_IN_PROGRESS, claim=CLAIM, left_out=RULE), looked()
    ),
    "archived by its operator before it was left out": situation(
        Level.OK, "archived", vm(State.ARCHIVED, left_out=RULE), None
    ),
    "a move was interrupted": situation(
        Level.WARNING, "unfinished", vm(moving="archive"), looked()
    ),
    "a backup saved it, and died": situation(
        Level.WARNING, "unfinished", vm(power=SAVED), looked()
    ),
    "a backup saved it, and its host was given up": situation(
        Level.WARNING, "left", vm(power_left=SAVED), looked()
    ),
    "a backup saved it, and its host is silent": situation(
        Level.CRITICAL, "unlooked", vm(power=SAVED), looked(2 * HOUR)
    ),
    "a move is under way": situation(
        Level.OK, "copied", vm(moving="archive", claim=CLAIM), looked()
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_situation_has_its_verdict(name: str) -> None:
    record, look, now, bounds, level, kind = SITUATIONS[name]
    said = judge_vm(record, look, now, bounds)
    assert (said.level, said.kind) == (level, kind), said
    assert said.subject == "web"
    assert said.reason


@pytest.mark.parametrize(
    ("damaged", "newest", "remedy"),
    [
        (("20261121T200800Z-1",), "", "remove web 20261121T200800Z-1"),
        (("20261121T200800Z-2", "20261120T200800Z-1"), "", "remove web 20261120T200800Z-1"),
        (("20261123T200800Z-4",), "", "verify web"),
        (("20261121T200800Z-4",), "", "verify web"),  # of two signs only one says that it is older
        (("20261121T200800Z-1", "20261123T200800Z-4"), "", "verify web"),
        (("20261121T200800Z-1",), "not read in full", "verify web"),
        (("20261121T200800Z-1",), "gone", "verify web"),
        (("x",), "", "verify web"),
    ],
)
def test_a_damaged_copy_is_removed_only_for_a_newer_one_that_was_read(
    damaged: tuple[str, ...], newest: str, remedy: str
) -> None:
    good = CopyRecord("20261122T200800Z-3", 3, 10, "0" * 64, RECENT, {})
    last = {"gone": None, "not read in full": replace(good, sha256="")}.get(newest, good)
    said = judge_vm(vm(damaged=damaged, last_copy=last), looked(), HERE, BOUNDS)
    assert said.remedy == f"vmbackup-admin {remedy}"
    assert ("no newer one" in said.reason) == remedy.startswith("verify")


def test_a_damaged_copy_is_not_removed_while_another_one_is_suspect() -> None:
    """Which has taken blocks over from it, and was not read since: no time says that all are."""
    good = CopyRecord("20261122T200800Z-3", 3, 10, "0" * 64, RECENT, {})
    record = vm(damaged=("20261121T200800Z-2",), last_copy=good, verified="")
    assert judge_vm(record, looked(), HERE, BOUNDS).remedy == "vmbackup-admin verify web"


def test_what_else_is_wrong_with_a_vm_is_said_with_the_gravest() -> None:
    record = vm(damaged=("x",), power=SAVED, verified="2026-08-01T00:00:00Z")
    said = judge_vm(record, looked(2 * HOUR), HERE, BOUNDS)
    assert (said.level, said.kind) == (Level.CRITICAL, "damaged")
    assert [(one.level, one.kind) for one in said.also] == [
        (Level.CRITICAL, "unlooked"),
        (Level.WARNING, "unfinished"),
        (Level.WARNING, "unverified"),
    ]
    assert said.also[1].reason == "a backup saved it, and has not started it again: it may be off"
    assert judge_vm(vm(), looked(), HERE, BOUNDS).also == ()


def test_why_a_vm_is_not_looked_at_is_true() -> None:
    """Its host looks at others, or at none; one that VirtualBox cannot use says why."""
    overlooked = judge_vm(vm(), looked(vm_ago=27 * HOUR), HERE, BOUNDS)
    assert overlooked.reason == "nobody looks at it: alpha looks, and not at this VM"
    silent = judge_vm(vm(), looked(2 * HOUR), HERE, BOUNDS)
    assert silent.reason == "nobody looks at it: alpha has stopped, or is off"
    unusable = judge_vm(vm(**UNUSABLE), looked(vm_ago=2 * DAY), HERE, BOUNDS)
    assert unusable.reason == "VirtualBox cannot use it: VirtualBox cannot open its settings"
    assert unusable.remedy == "on alpha: VBoxManage list --long vms"
    assert unusable.seconds == HOUR


def test_nothing_is_all_right_that_nobody_looks_at() -> None:
    """The product of states, looks and readers: OK only with a look that is fresh, or excused."""
    looks = [None, looked(), looked(2 * HOUR), looked(9 * DAY), looked(vm_ago=9 * DAY)]
    readers = [HERE, BACK, Moment(NOW, NOW), replace(BACK, node="alpha")]
    claims = [None, CLAIM]
    for status, look, now, claim in product(State, looks, readers, claims):
        if status == State.ARCHIVED:
            continue
        said = judge_vm(vm(status, claim=claim), look, now, BOUNDS)
        fresh = look is not None and NOW - look.looked <= 1800
        seen = look is not None and NOW - look.vms["uuid"] <= BOUNDS.max_age_seconds
        if said.level == Level.OK:
            copying = status == State.BACKUP_IN_PROGRESS and claim is not None
            assert fresh, (status, look, now, said)
            assert seen or copying, (status, look, now, said)


@pytest.mark.parametrize(
    ("look", "now", "may_be_off", "level", "kind"),
    [
        (None, HERE, False, Level.UNKNOWN, "unknown"),
        (None, HERE, True, Level.OK, "unknown"),
        (looked(), HERE, False, Level.OK, "looks"),
        (looked(1790), HERE, False, Level.OK, "looks"),
        (looked(1810), HERE, False, Level.CRITICAL, "silent"),
        (looked(9 * DAY), HERE, True, Level.OK, "off"),
        (looked(2 * HOUR), BACK, False, Level.UNKNOWN, "away"),
        (looked(2 * HOUR), replace(BACK, node="alpha"), False, Level.CRITICAL, "silent"),
        (looked(-HOUR), HERE, False, Level.WARNING, "clock"),
        (looked(workers={"verify": WorkerEnd(13, "")}), HERE, False, Level.WARNING, "failing"),
        (looked(workers={"backup": WorkerEnd(4, "")}), HERE, False, Level.OK, "looks"),
    ],
)
def test_each_host_has_its_verdict(
    look: HostLook | None, now: Moment, may_be_off: bool, level: Level, kind: str
) -> None:
    said = judge_host("alpha", look, now, may_be_off=may_be_off)
    assert (said.level, said.kind) == (level, kind), said


def test_a_remedy_that_helps_on_one_host_only_names_it() -> None:
    silent = judge_host("alpha", looked(2 * HOUR), HERE, may_be_off=False)
    failing = looked(workers={"backup": WorkerEnd(13, "")})
    told = judge_host("alpha", failing, HERE, may_be_off=False)
    never = judge_host("alpha", None, HERE, may_be_off=False)
    unlooked = judge_vm(vm(), looked(2 * HOUR), HERE, BOUNDS)
    assert {silent.remedy, told.remedy, unlooked.remedy} == {"on alpha: vmbackup-admin doctor"}
    assert never.remedy == "on alpha: vmbackup-worker run"


def test_how_long_ago_a_worker_failed_is_by_the_clock_of_its_host_alone() -> None:
    """The host's clock is a day ahead of the NAS's."""
    ends = {
        "backup": WorkerEnd(13, "2026-11-23T20:08:00Z"),  # 20 minutes before it looked
        "vmfind": WorkerEnd(0, "2026-11-23T20:28:00Z"),
    }
    look = replace(looked(600, workers=ends), written=NOW - 600 + DAY)
    assert judge_host("alpha", look, HERE, may_be_off=False).seconds == 20 * 60 + 600
    nonsense = looked(workers={"backup": WorkerEnd(13, "yesterday")})
    assert judge_host("alpha", nonsense, HERE, may_be_off=False).seconds is None


def test_the_readers_own_clock_may_be_an_hour_off() -> None:
    """Ages are by the NAS's clock, which the reader knows from its own last look."""
    own = replace(looked(300), node="beta", written=NOW - 300 - HOUR)
    now = moment(NOW - HOUR, own)
    assert now.nas == NOW
    assert judge_host("alpha", looked(1790), now, may_be_off=False).level == Level.OK
    assert judge_host("alpha", looked(1810), now, may_be_off=False).level == Level.CRITICAL


def test_who_was_away_itself_waits_for_its_second_look() -> None:
    away = moment(NOW, replace(looked(5 * HOUR), node="beta"))
    assert judge_host("alpha", looked(5 * HOUR), away, may_be_off=False).kind == "away"
    back = moment(NOW, replace(looked(60), node="beta", since=NOW - 60))
    assert judge_host("alpha", looked(5 * HOUR), back, may_be_off=False).kind == "away"
    settled = moment(NOW, replace(looked(60), node="beta", since=NOW - 1900))
    assert judge_host("alpha", looked(5 * HOUR), settled, may_be_off=False).kind == "silent"


def test_a_full_nas_is_critical() -> None:
    assert judge_nas(10, 5).level == Level.OK
    assert judge_nas(0, 0).level == Level.CRITICAL
    assert judge_nas(4, 5).level == Level.CRITICAL


def test_nothing_to_judge_is_not_all_right() -> None:
    assert worst([]) == Level.UNKNOWN
