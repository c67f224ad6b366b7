"""Rehearsals by schedule: what is due, what hinders them, what is told, and how hosts share."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import psutil
import pytest

from shared.copies import catalogue, sidecar_files
from shared.copies.copy_files import NasFiles
from shared.copies.sidecar_fields import Rehearsed
from shared.copies.survey import survey
from shared.host.clock import SystemClock, timestamp
from shared.host.errors import LockedError, VmBackupError
from shared.host.host_lock import host_lock
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import RehearsalRecord, VmRecord
from shared.state.rules import claims
from shared.state.states import State
from shared.tasks import (
    due_rehearsals,
    records_from_copies,
    rehearsal,
    rehearsal_trial,
    verification,
)
from shared.tasks.abandoned_imports import REHEARSAL_LOCK
from shared.tasks.archiving import archive
from shared.tasks.judgement import Level
from shared.tasks.noted_import import Progress
from shared.tasks.verdicts import judge
from tests.simulated.conftest import Rig
from tests.simulated.test_verify import back_up, change, damage, two_copies
from tests.support.simulated.power import SCREEN
from worker import rehearsals, verify

NOW = SystemClock().now()
SHARE = "rehearsed-today.json"
WISHES = {"rehearse_days": 30, "rehearse_seconds": 1}


def days_ago(days: float) -> str:
    return timestamp(NOW - timedelta(days=days))


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has that runs the tests, there is room and memory."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 39))
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=64 << 30, total=64 << 30)
    )


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The VMs that are rehearsed; no VM is made, and all of them come back."""
    found: list[str] = []

    def instead(
        _turn: rehearsal.RehearsalTurn,
        site: Site,
        record: VmRecord,
        copy: catalogue.Copy,
        _wishes: object,
        progress: Progress,
    ) -> rehearsal.Rehearsal:
        found.append(record.key)
        progress("verify", 0)
        when = timestamp(site.clock.now())
        told = RehearsalRecord(copy.stamp, when, site.node, "good")
        site.database.commit_once(
            lambda contents: contents.with_vm(replace(contents.vms[record.key], rehearsed=told)),
            "test",
            "test",
        )
        result = Rehearsed(when, site.node, "good", "it ran", booted=True)
        return rehearsal.Rehearsal(copy.stamp, result, recorded=True)

    monkeypatch.setattr(rehearsal, "rehearse", instead)
    return found


def copied(rig: Rig, *names: str) -> None:
    """VMs with a copy each."""
    for name in names:
        rig.host().make_vm(name)
    assert sorted(back_up(rig)) == sorted(names)


def rehearsed(rig: Rig, key: str, ago: float, result: str = "good", stamp: str = "") -> None:
    """Says that the newest copy of a VM, or another one, was rehearsed so many days ago."""
    record = rig.record(key)
    assert record.last_copy is not None
    told = RehearsalRecord(stamp or record.last_copy.stamp, days_ago(ago), "alpha", result)
    change(rig, lambda contents: contents.with_vm(replace(contents.vms[key], rehearsed=told)))


def due(rig: Rig, **backup: object) -> list[str]:
    site = rig.site(**{**WISHES, **backup})
    contents = site.database.head().contents
    now = SystemClock().now()  # on a slow machine the moment of a result is after NOW by far
    return [one.key for one in due_rehearsals.due(contents, site.configuration, now)]


def test_none_is_rehearsed_unless_that_is_wanted(rig: Rig, tried: list[str]) -> None:
    two_copies(rig)
    site = rig.site()
    before = site.database.head().generation
    assert verify.run(site) == verify.Report()
    assert (tried, site.database.head().generation) == ([], before)
    assert rehearsals.plan(site) == []


def test_the_newest_copy_of_a_vm_of_any_host_is_rehearsed_noted_and_not_due_any_more(
    rig: Rig,
) -> None:
    _, new = two_copies(rig)
    rig.host("beta")
    site = rig.site("beta", **WISHES)
    assert rehearsals.plan(site) == [f"rehearse web01 {new}"]
    assert verify.run(site).done == ["web01"]
    copy = catalogue.read(rig.nas / "web01", None).find(new)
    assert copy is not None
    assert copy.sidecar is not None
    side = copy.sidecar.rehearsed
    assert side is not None
    assert (side.result, side.booted, side.node) == ("good", True, "beta")
    assert (rig.nas / "web01" / f"{new}.png").read_bytes() == SCREEN
    record = rig.record("web01")
    assert record.rehearsed == RehearsalRecord(new, side.time, "beta", "good")
    assert record.claim is None
    assert [row.reads for row in site.database.head().contents.sessions.values()
            if row.state == "live"] == []  # fmt: skip
    assert [machine.name for machine in site.inventory().values()] == []
    assert list((rig.folder / "state-beta" / "rehearsals").glob("*")) == []
    assert verify.run(rig.site("beta", **WISHES)) == verify.Report()
    assert verify.run(rig.site(**WISHES)) == verify.Report()


def test_first_what_was_never_rehearsed_then_the_longest_unrehearsed(
    rig: Rig, tried: list[str]
) -> None:
    copied(rig, "a", "b", "c", "d")
    rehearsed(rig, "a", 40)
    rehearsed(rig, "b", 50)
    rehearsed(rig, "d", 29)
    assert due(rig) == ["c", "b", "a"]
    rehearsed(rig, "b", -3)
    assert due(rig) == ["b", "c", "a"], "what lies in the future was never"
    for number in range(4):
        rehearsals.run(rig.site(**WISHES), verify.Report())
        assert tried == ["b", "c", "a"][: number + 1], "one a tick: a worker has more to do"


def test_a_copy_that_would_not_come_back_is_tried_again_with_its_successor(rig: Rig) -> None:
    old, new = two_copies(rig)
    rehearsed(rig, "web01", 1, "it did nothing", new)
    assert due(rig) == []
    rehearsed(rig, "web01", 1, "it did nothing", old)
    assert due(rig) == ["web01"]
    rehearsed(rig, "web01", 1, "good", old)
    assert due(rig) == []


def test_only_within_the_window_of_each_vm(rig: Rig) -> None:
    two_copies(rig)
    local = NOW.astimezone()
    shut = f"{local + timedelta(hours=2):%H:%M}-{local + timedelta(hours=3):%H:%M}"
    open_ = f"{local - timedelta(hours=2):%H:%M}-{local + timedelta(hours=2):%H:%M}"
    assert due(rig, rehearse_window=shut) == []
    assert due(rig, rehearse_window=open_) == ["web01"]
    assert due(rig, rehearse_window="00:00-00:00") == ["web01"]
    rig.policies = {"web*": {"rehearse_days": 0}}
    assert due(rig) == []


def test_one_on_which_somebody_works_is_left_alone(rig: Rig) -> None:
    two_copies(rig)
    with rig.site().database.session("other") as session:
        session.commit(
            lambda contents: claims.grant(contents, "web01", session.id, "verify", "now"), "held"
        )
        assert due(rig) == []
    assert due(rig) == ["web01"]


def test_of_two_hosts_one_rehearses_a_copy_which_stays_meanwhile(rig: Rig) -> None:
    _, new = two_copies(rig)
    site, uuid = rig.site(**WISHES), rig.record("web01").uuid
    with site.database.session("rehearse") as one, site.database.session("rehearse") as other:
        one.read_copy(uuid, new, alone=True)
        assert due(rig) == []
        with pytest.raises(LockedError, match="is being rehearsed"):
            other.read_copy(uuid, new, alone=True)
        with pytest.raises(LockedError, match="is being read") as caught:
            archive(rig.site(), "web01")
        assert "rehearsal" in caught.value.hint
    assert due(rig) == ["web01"]


def test_nothing_is_begun_while_this_host_exports(
    rig: Rig, tried: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("web01", "web02"):
        two_copies(rig, name)
    caplog.set_level("INFO")
    site = rig.site(**WISHES)
    waits = State.BACKUP_NECESSARY
    change(rig, lambda contents: contents.with_vm(replace(contents.vms["web02"], status=waits)))
    with site.database.session("backup") as session:

        def claim(contents):  # type: ignore[no-untyped-def]
            return claims.grant(contents, "web02", session.id, "backup", "now")

        session.commit(claim, "held")
        rehearsals.run(site, verify.Report())
        assert tried == []
        assert "this host exports web02" in caplog.text
        rig.host("beta")
        rehearsals.run(rig.site("beta", **WISHES), verify.Report())
        assert tried == ["web01"], "another host does not export"


@pytest.mark.parametrize(
    ("what", "said"),
    [("room", "there is no room in"), ("memory", "too little memory"), ("rights", "may not write")],
)
def test_nothing_is_begun_without_room_memory_or_the_right_to_note_it(
    rig: Rig,
    tried: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    said: str,
) -> None:
    two_copies(rig)
    caplog.set_level("INFO")
    if what == "room":
        free = SimpleNamespace(free=1 << 30)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: free)
    elif what == "memory":
        little = SimpleNamespace(available=512 << 20, total=64 << 30)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    else:
        monkeypatch.setattr(rehearsals.os, "access", lambda *_arguments: False)
    report = verify.Report()
    rehearsals.run(rig.site(**WISHES), report)
    assert (tried, report.failed, report.done) == ([], [], [])
    assert said in caplog.text
    assert not (rig.folder / "state-alpha" / SHARE).exists()


def test_the_memory_of_a_vm_is_that_of_its_kept_settings(rig: Rig) -> None:
    _, new = two_copies(rig)
    copy = catalogue.read(rig.nas / "web01", None).find(new)
    assert copy is not None
    assert rehearsals.memory_of(copy) > 0
    (rig.nas / "web01" / f"{new}.vbox").chmod(0o600)
    (rig.nas / "web01" / f"{new}.vbox").write_bytes(b"<x")
    assert rehearsals.memory_of(copy) == 0


def test_a_rehearsal_that_an_older_program_noted_or_a_lost_database_knew_counts(rig: Rig) -> None:
    old, new = two_copies(rig)
    for stamp, ago in ((old, 3), (new, 5)):
        side = sidecar_files.read(rig.nas / "web01", stamp)
        told = Rehearsed(days_ago(ago), "beta", "good", "it ran", booted=True)
        sidecar_files.replace(NasFiles(), rig.nas / "web01", replace(side, rehearsed=told), 99)
    assert due(rig) == ["web01"]
    site = rig.site()
    with site.database.session("verify") as session:
        verification.verify_copy(site, session, "web01", old)
    assert rig.record("web01").rehearsed == RehearsalRecord(old, days_ago(3), "beta", "good")
    assert due(rig) == []
    vms = survey(site.configuration.nas, archive=False).vms.values()
    made = records_from_copies.make(vms, {}, NOW, Contents()).contents
    assert made.vms["web01"].rehearsed == RehearsalRecord(old, days_ago(3), "beta", "good")


def test_of_a_result_that_is_planted_beside_a_copy_little_gets_into_the_database(rig: Rig) -> None:
    """The database has 32 MiB at most: beyond that no commit is taken any more."""
    _, new = two_copies(rig)
    side = sidecar_files.read(rig.nas / "web01", new)
    much = "x" * 300_000
    told = Rehearsed(days_ago(1), much, much, "it ran", booted=True)
    sidecar_files.replace(NasFiles(), rig.nas / "web01", replace(side, rehearsed=told), 99)
    site = rig.site()
    with site.database.session("verify") as session:
        verification.verify_copy(site, session, "web01", new)
    last = rig.record("web01").rehearsed
    assert last is not None
    assert last.result.startswith("xxx")
    assert max(len(last.result), len(last.node)) <= 300
    with site.database.session("verify") as session:
        before = site.database.head().generation
        verification.settle(site, session, "web01")
        assert site.database.head().generation == before, "nothing differs"
    assert ("unrestorable", Level.WARNING) in {
        (one.kind, one.level) for one in judge(site, site.database.head().contents).about["web01"]
    }


def test_the_share_of_a_day_is_kept_apart_from_that_of_readings(rig: Rig, tried: list[str]) -> None:
    copied(rig, "a", "b")
    rehearsals.run(rig.site(verify_bytes=1, **WISHES), verify.Report())
    assert tried == ["a"], "the first of a day whatever its size"
    rehearsals.run(rig.site(verify_bytes=1, **WISHES), verify.Report())
    assert tried == ["a"]
    rehearsals.run(rig.site(**WISHES), verify.Report())
    assert tried == ["a", "b"]


def test_while_another_rehearsal_runs_on_this_host_none_is_begun(rig: Rig) -> None:
    two_copies(rig)
    site = rig.site(**WISHES)
    with host_lock(site.configuration.host.state_directory, REHEARSAL_LOCK) as mine:
        assert mine
        report = verify.Report()
        rehearsals.run(site, report)
        assert (report.failed, report.done) == ([], [])
    assert rig.record("web01").rehearsed is None
    assert not (site.configuration.host.state_directory / SHARE).exists()


def test_one_that_does_not_come_back_is_told_until_one_does(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, judged: Callable[[], set[tuple[str, Level]]]
) -> None:
    _, new = two_copies(rig)
    site = rig.site(**WISHES)
    with monkeypatch.context() as context:
        broken = VmBackupError("the import failed")

        def fail(*_arguments: object) -> None:
            raise broken

        context.setattr(rehearsal_trial, "make", fail)
        assert verify.run(site).failed == ["web01"]
    record = rig.record("web01")
    assert record.rehearsed is not None
    assert record.rehearsed.result == "the import failed"
    assert ("unrestorable", Level.WARNING) in judged()
    assert due(rig) == [], "the same copy is tried again when its time has come"
    rehearsed(rig, "web01", 31, "the import failed")
    assert verify.run(rig.site(**WISHES)).done == ["web01"]
    assert judged() == set()
    rehearsed(rig, "web01", 62, "good", new)
    assert ("unrehearsed", Level.WARNING) in judged()


@pytest.fixture
def judged(rig: Rig) -> Callable[[], set[tuple[str, Level]]]:
    """What is said of the VM's rehearsals."""

    def say() -> set[tuple[str, Level]]:
        site = rig.site(**WISHES)
        about = judge(site, site.database.head().contents).about["web01"]
        return {(one.kind, one.level) for one in about if one.kind.startswith("unre")}

    return say


def test_a_damaged_copy_is_found_and_not_rehearsed_before_it_has_a_successor(rig: Rig) -> None:
    _, new = two_copies(rig)
    damage(rig, "web01", new)
    assert verify.run(rig.site(**WISHES)).failed == ["web01"]
    assert rig.record("web01").damaged == (new,)
    assert due(rig) == []
