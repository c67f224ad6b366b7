"""What commands and the `database` worker do where the history is in bundles, or begins."""

import json
import os
import secrets
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from shared.host.errors import DatabaseDamagedError, ExitCode
from shared.state import formats
from shared.state.records import Power
from shared.state.states import State
from shared.state.store import bundling, protocol
from shared.state.store.anchor import newest_anchor
from shared.state.store.generations import read_number
from shared.state.store.kept_generations import bundles_in
from shared.state.store.salvage import highest_generation, salvage
from shared.state.store.seen_history import SeenHistory
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_reading import damage
from worker.backup import power_notes
from worker.history_bundling import keep_history

LATE = "2026-12-24T00:00:00Z"


@pytest.fixture
def site(site_with_database: Operator, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """A VM with ten commits; three generations are in a bundle."""
    monkeypatch.setattr(bundling, "BUNDLE_SIZE", 4)
    operator = site_with_database
    operator.add_vms("web")
    for number in range(8):
        operator.set(
            "web", status=State.RUNNING if number % 2 else State.NEW, last_error=str(number)
        )
    return operator


def bundled(operator: Operator, keep: int = 1) -> None:
    database = operator.database()
    database.files.run(protocol.prune(keep))
    while database.files.run(bundling.bundle_oldest(LATE, secrets.token_hex(4), 4)):
        pass


def in_gen(operator: Operator) -> list[int]:
    return sorted(int(name) for name in os.listdir(operator.vmstate / "gen"))


class TestCommands:
    def test_log_and_check_say_the_same_before_and_after(self, site: Operator) -> None:
        before = site.json("log"), site.json("log", "--vm", "web"), site.json("statedb", "check")
        bundled(site)
        assert site.json("log") == before[0]
        assert site.json("log", "--vm", "web") == before[1]
        assert site.json("statedb", "check") == {**before[2], "bundles": 2}

    def test_check_says_what_was_removed_for_its_age(self, site: Operator) -> None:
        bundled(site)
        files = site.database().files
        files.run(bundling.remove_old("2099-01-01T00:00:00Z", LATE, "beta"))
        assert (
            "Up to 8 they were removed for their age, by beta"
            in site.admin("statedb", "check").stdout
        )
        document = site.json("statedb", "check")
        assert (document["removed"]["number"], document["oldest"], document["findings"]) == (
            8,
            9,
            [],
        )
        assert [row["generation"] for row in site.json("log")["commits"]] == [9, 10]

    def test_the_generation_before_a_damaged_one_comes_back_out_of_a_bundle(
        self, site: Operator
    ) -> None:
        bundled(site)
        site.set("web", status=State.NEW)
        site.set("web", status=State.RUNNING)
        files = site.database().files
        files.run(protocol.prune(1))
        bundle_all(site)
        assert (in_gen(site), len(bundles_in(site.vmstate))) == ([12], 3)
        number = damage(site)
        found = site.admin("statedb", "check", "--set-aside", str(number))
        assert found.exit_code == ExitCode.DONE, found.output
        assert in_gen(site)[0] == 11
        assert site.record("web").status == State.NEW

    def test_what_is_only_in_bundles_is_salvaged(self, site: Operator) -> None:
        bundled(site)
        for path in (site.vmstate / "gen").iterdir():
            path.unlink()
        (site.vmstate / "history" / "0000000").rename(site.folder / "gone")
        found = salvage(site.vmstate)
        assert (found.generation, highest_generation(site.vmstate), found.row_generation) == (
            8,
            8,
            8,
        )
        assert [row.name for row in found.vms.values()] == ["web"]
        assert found.repository == site.database().version.repository


def bundle_all(operator: Operator) -> None:
    """Bundles whatever is in the history."""
    files = operator.database().files
    files.run(bundling.bundle_oldest(LATE, secrets.token_hex(4), len(files.history.oldest(99))))


class TestAHostThatWasAway:
    @staticmethod
    def _looks(site: Operator, note: Path, *, seen: str) -> int:
        """The newest generation that there is, for a host that has seen generation 3 as that."""
        note.write_text(json.dumps({"generation": 3, "checksum": seen}))
        database = site.database()
        head = database.head()
        SeenHistory(note, bundled=2).check(database.files, head, synced=True)
        return head.generation

    def test_it_compares_with_the_history(self, site: Operator, tmp_path: Path) -> None:
        note = tmp_path / "seen"
        bundled(site)
        right = site.database().files.history.checksum(3)
        assert self._looks(site, note, seen=right) == 10
        assert json.loads(note.read_text())["generation"] == 10
        with pytest.raises(DatabaseDamagedError, match="generation 3 is not the one"):
            self._looks(site, note, seen="0" * 64)

    def test_what_is_gone_for_its_age_cannot_be_compared(
        self, site: Operator, tmp_path: Path
    ) -> None:
        bundled(site)
        site.database().files.run(bundling.remove_old("2099-01-01T00:00:00Z", LATE, "beta"))
        assert self._looks(site, tmp_path / "seen", seen="0" * 64) == 10


class TestWhatABackupDid:
    """A note of this host names the commit that said so: as long as that is kept, or was."""

    def test_what_went_for_its_age_is_not_lost(self, site: Operator) -> None:
        self.note(site)
        bundled(site)
        site.database().files.run(bundling.remove_old("2099-01-01T00:00:00Z", LATE, "beta"))
        assert power_notes.take_over(site.site()) == []
        assert site.record("web").power is None

    def test_what_is_in_a_bundle_is_not_lost(self, site: Operator) -> None:
        self.note(site)
        bundled(site)
        assert power_notes.take_over(site.site()) == []

    def test_what_is_nowhere_is_lost(self, site: Operator) -> None:
        self.note(site)
        bundled(site)
        for path in (site.vmstate / "history").glob("*.gz"):
            path.unlink()
        assert power_notes.take_over(site.site()) == ["web"]

    @staticmethod
    def note(site: Operator) -> None:
        said = read_number(site.vmstate, 3)
        assert said is not None
        power = Power("savestate", "running", 18)
        uuid = site.record("web").uuid
        power_notes.remember(site.site(), uuid, power, said.header.session, said)


class TestTheWorker:
    def test_it_bundles_and_removes(self, site: Operator, caplog: pytest.LogCaptureFixture) -> None:
        site.database().files.run(protocol.prune(1))
        keep_history(site.site(), site.contents)
        assert len(bundles_in(site.vmstate)) == 2
        later = site.site()
        object.__setattr__(later, "clock", Later(later.clock, timedelta(days=500)))
        keep_history(later, site.contents)
        assert "clocks here and on the NAS" in caplog.text
        assert newest_anchor(site.vmstate) is None

    def test_a_database_that_older_programs_use_stays_as_it_is(self, site: Operator) -> None:
        site.database().files.run(protocol.prune(1))
        keep_history(site.site(), replace(site.contents, format=formats.FIRST))
        assert bundles_in(site.vmstate) == []

    def test_old_commits_go(self, site: Operator) -> None:
        bundled(site)
        (first, _) = bundles_in(site.vmstate)
        history = site.vmstate / "history"
        old = history / str(replace(first, committed="20200101T000000Z"))
        (history / str(first)).rename(old)
        keep_history(site.site(), site.contents)
        anchor = newest_anchor(site.vmstate)
        assert anchor is not None
        assert (anchor.number, anchor.node) == (4, "alpha")
        assert len(bundles_in(site.vmstate)) == 1

    def test_what_goes_wrong_is_told_and_left_to_the_next_tick(
        self, site: Operator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.database().files.run(protocol.prune(1))
        there = site.site()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("shared.state.store.history_files.write_new_file", full)
        keep_history(there, site.contents)
        assert "the history of the state database stays as it is" in caplog.text
        assert len(there.database.files.history.oldest(99)) == 9


class Later:
    """A clock that is ahead."""

    def __init__(self, clock: object, ahead: timedelta) -> None:
        self._clock, self._ahead = clock, ahead

    def now(self) -> object:
        return self._clock.now() + self._ahead  # type: ignore[attr-defined]
