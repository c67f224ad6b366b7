"""Copies that somebody takes away are missed long before they are due to be verified."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.host.clock import SystemClock
from shared.host.errors import ExitCode, NasError
from shared.state.records import VmRecord
from shared.state.states import State
from shared.tasks import verification, vm_copies
from shared.tasks.archiving import activate, archive
from tests.simulated.conftest import Rig
from tests.simulated.test_unlisted import admin
from tests.simulated.test_verify import back_up, damage, two_copies
from worker import lost_copies, verify
from worker.report import Report

SLOT = timedelta(seconds=lost_copies.SLOT_SECONDS)
TICKS = 6  # of a day: fewer than in life, with more slots each


class LaterClock(SystemClock):
    """A clock that is put on by hand."""

    ahead = timedelta()

    def now(self) -> datetime:
        """See `Clock.now`."""
        return super().now() + self.ahead


def ticks(rig: Rig) -> Iterator[Report]:
    """A day's verify workers from now on, without the first, which only notes when it was."""
    clock = LaterClock()
    for number in range(TICKS + 1):
        clock.ahead = number * SLOT * (lost_copies.SLOTS // TICKS)
        site = rig.site()
        site.clock = clock
        outcome = verify.run(site)
        if number:
            yield outcome


def generation(rig: Rig) -> int:
    return rig.site().database.head().generation


def stamp_of(record: VmRecord) -> str:
    return record.last_copy.stamp if record.last_copy else ""


def test_a_day_of_ticks_with_all_copies_in_their_places_commits_nothing(rig: Rig) -> None:
    two_copies(rig)
    before = generation(rig)
    assert [outcome for outcome in ticks(rig) if outcome != Report()] == []
    assert generation(rig) == before


def test_a_directory_is_looked_into_once_a_day(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    two_copies(rig)
    read, looks = catalogue.read, []

    def counted(directory: Path, uuid: str | None) -> catalogue.Catalogue:
        looks.append(directory)
        return read(directory, uuid)

    monkeypatch.setattr(catalogue, "read", counted)
    assert len(list(ticks(rig))) == TICKS
    assert len(looks) == 1


def test_the_newest_copy_that_was_moved_away_is_missed_within_a_day_and_made_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = two_copies(rig)
    (rig.nas / "web01" / f"{new}.ova").rename(rig.folder / "aside.ova")
    codes = [outcome.exit_code for outcome in ticks(rig)]
    assert sorted(codes) == [ExitCode.DONE] * (TICKS - 1) + [ExitCode.SOME_FAILED]
    record = rig.record("web01")
    assert (record.status, stamp_of(record), record.claim) == (State.BACKUP_NECESSARY, old, None)
    assert (
        f"the newest copy {new} is not good any more; the newest good one is {old}" in caplog.text
    )
    assert back_up(rig) == ["web01"]
    assert rig.record("web01").status is State.CLEAN


def test_a_directory_that_was_moved_away_is_missed_at_the_next_tick_of_any_host(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    two_copies(rig)
    two_copies(rig, "web02")
    (rig.nas / "web01").rename(rig.folder / "aside")
    assert verify.run(rig.site("beta")).failed == ["web01"]
    record = rig.record("web01")
    assert (record.status, record.last_copy, record.claim) == (State.BACKUP_NECESSARY, None, None)
    assert f"its directory {rig.nas / 'web01'} is gone from the NAS" in caplog.text
    assert rig.record("web02").status is State.CLEAN
    assert verify.run(rig.site("beta")) == Report(), "it is said once"
    assert back_up(rig) == ["web01"]
    assert rig.record("web01").status is State.CLEAN


def test_a_directory_that_is_put_back_counts_again_within_a_day(rig: Rig) -> None:
    _, new = two_copies(rig)
    (rig.nas / "web01").rename(rig.folder / "aside")
    verify.run(rig.site())
    assert rig.record("web01").last_copy is None
    (rig.folder / "aside").rename(rig.nas / "web01")
    assert {outcome.exit_code for outcome in ticks(rig)} == {ExitCode.DONE}
    assert stamp_of(rig.record("web01")) == new


def test_when_all_directories_are_gone_the_nas_is_in_trouble_and_nothing_is_noted(rig: Rig) -> None:
    two_copies(rig)
    two_copies(rig, "web02")
    for name in ("web01", "web02"):
        (rig.nas / name).rename(rig.folder / name)
    before = generation(rig)
    with pytest.raises(NasError, match="not one of the 2 directories"):
        verify.run(rig.site())
    assert generation(rig) == before
    for name in ("web01", "web02"):
        (rig.folder / name).rename(rig.nas / name)
    assert verify.run(rig.site()) == Report()


def test_an_archived_vm_that_cannot_be_looked_at_is_said_and_the_others_are_looked_at(
    rig: Rig,
) -> None:
    two_copies(rig)
    old, new = two_copies(rig, "web02")
    archive(rig.site(), "web01")
    (rig.nas / "archive" / ".vmbackup-archive").unlink()
    shutil.move(rig.nas / "archive" / "web01", rig.folder / "aside")
    (rig.nas / "web02" / f"{new}.ova").unlink()
    outcomes = list(ticks(rig))
    assert sorted(key for outcome in outcomes for key in outcome.failed) == ["web01", "web02"]
    assert max(outcome.exit_code for outcome in outcomes) == ExitCode.NAS
    assert (rig.record("web01").status, stamp_of(rig.record("web02"))) == (State.ARCHIVED, old)
    assert rig.record("web01").last_copy is not None


def test_a_vm_that_was_activated_after_the_database_that_was_put_back_is_said(rig: Rig) -> None:
    """Its copies are not called lost, and it is not left out in silence."""
    stamps = two_copies(rig)
    archive(rig.site(), "web01")
    shutil.copytree(rig.nas / "vmstate", rig.folder / "saved")
    activate(rig.site(), "web01")
    shutil.rmtree(rig.nas / "vmstate")
    (rig.folder / "saved").rename(rig.nas / "vmstate")
    shutil.rmtree(rig.folder / "state-alpha")
    outcomes = list(ticks(rig))
    assert {key for outcome in outcomes for key in outcome.failed} == {"web01"}
    assert max(outcome.exit_code for outcome in outcomes) == ExitCode.NAS
    read = admin(rig, "verify", "web01")
    assert read.exit_code == ExitCode.NAS, read.output
    assert "none in the archive" in read.stderr
    assert "activate web01`, and it is backed up again" in read.stderr
    assert stamp_of(rig.record("web01")) == stamps[1]
    assert "none in the archive" in admin(rig, "copies", "web01").stderr
    site = rig.site()
    with site.database.session("rehearse") as session:
        verification.settle(site, session, "web01")
    assert stamp_of(rig.record("web01")) == stamps[1], "else nothing would tell of it any more"
    activate(rig.site(), "web01")
    assert (rig.record("web01").status, stamp_of(rig.record("web01"))) == (State.CLEAN, stamps[1])
    assert admin(rig, "verify", "web01").exit_code == 0


def test_copies_of_an_archived_vm_that_are_moved_or_could_not_be_are_looked_at(rig: Rig) -> None:
    """Those that are rotten stayed where they were: they are read, and marked."""
    stamps = two_copies(rig)
    archive(rig.site(), "web01")
    (rig.nas / "archive" / "web01").rename(rig.nas / "web01")
    site = rig.site()
    moving = replace(rig.record("web01"), moving="activate")
    vm_copies.require_archived(site, moving)
    with pytest.raises(NasError, match="none in the archive"):
        vm_copies.require_archived(site, rig.record("web01"))
    for stamp in stamps:
        damage(rig, "web01", stamp)
    assert admin(rig, "verify", "web01").exit_code == ExitCode.SOME_FAILED
    assert len(rig.record("web01").damaged) == 2


def test_two_nas_of_one_state_directory_are_both_looked_at(rig: Rig) -> None:
    """Two configurations of one host share the state directory that hosts have by default."""
    old, new = two_copies(rig)
    (rig.nas / "web01" / f"{new}.ova").unlink()
    other = "0" * 8 + "-0000-0000-0000-" + "0" * 12
    clock = SystemClock()
    seen = []
    for number in range(TICKS + 1):
        now = clock.now() + number * SLOT * (lost_copies.SLOTS // TICKS)
        lost_copies.Slots(rig.folder / "state-alpha", other).note(now)
        later = LaterClock()
        later.ahead = number * SLOT * (lost_copies.SLOTS // TICKS)
        site = rig.site()
        site.clock = later
        seen += verify.run(site).failed
    assert seen == ["web01"]
    assert stamp_of(rig.record("web01")) == old


@pytest.mark.parametrize(
    "note", ["", "nonsense", "[]", '{"slot": null}', '{"slot": 1e999}', '{"slot": "x"}']
)
def test_a_note_of_nonsense_begins_anew(rig: Rig, note: str) -> None:
    now = SystemClock().now()
    (rig.folder / "looked-at-r.json").write_text(note)
    slots = lost_copies.Slots(rig.folder, "r")
    assert slots.begun(now) == frozenset()
    assert len(slots.begun(now + 3 * SLOT)) == 3
    slots.note(now + 3 * SLOT)
    assert slots.begun(now + 3 * SLOT) == frozenset()
    assert len(slots.begun(now + timedelta(days=400))) == lost_copies.SLOTS
    assert len(slots.begun(now)) == 1, "the clock went back"
    assert len(lost_copies.Slots(rig.folder / "absent", "r").begun(now)) == 1, (
        "a note that cannot be kept"
    )
