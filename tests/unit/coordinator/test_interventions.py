"""What operators change by hand, as pure functions."""

from dataclasses import replace

import pytest

from shared.host.errors import IllegalMoveError, LockedError
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord
from shared.state.rules import archive, backup, claims, hosts, sightings
from shared.state.rules.sightings import Sighting
from shared.state.states import State
from tests.unit.coordinator.conftest import WHEN, copy


@pytest.fixture
def contents() -> Contents:
    found = sightings.sight(
        Contents(), "alpha", [Sighting("u1", "web", "web"), Sighting("u2", "db", "db")], WHEN
    )
    return found.with_vm(replace(found.vms["web"], status=State.BACKUP_NECESSARY))


class TestBreakClaim:
    def test_a_backup_is_to_be_done_again_and_counts_as_failed(self, contents: Contents) -> None:
        claimed = claims.grant(contents, "web", "s", "backup", WHEN)
        record = claims.break_claim(claimed, "web", 1, "by hand", WHEN).vms["web"]
        assert (record.claim, record.status, record.failures, record.last_error) == (
            None,
            State.BACKUP_NECESSARY,
            1,
            "by hand",
        )
        assert (record.last_failed_claim, record.leftovers) == (1, True)

    def test_another_claim_than_the_one_that_was_looked_at_stays(self, contents: Contents) -> None:
        claimed = claims.grant(contents, "web", "s", "backup", WHEN)
        assert claims.break_claim(claimed, "web", 2, "by hand", WHEN) == claimed
        assert claims.break_claim(contents, "web", 1, "by hand", WHEN) == contents
        assert claims.break_claim(contents, "nobody", 1, "by hand", WHEN) == contents

    def test_an_intent_to_publish_stays(self, contents: Contents) -> None:
        claimed = claims.grant(contents, "web", "s", "backup", WHEN)
        own = claimed.vms["web"].claim
        assert own is not None
        intended = backup.intend(claimed, "web", own, copy())
        record = claims.break_claim(intended, "web", 1, "by hand", WHEN).vms["web"]
        assert (record.claim, record.publishing, record.status) == (
            None,
            copy(),
            State.BACKUP_IN_PROGRESS,
        )

    def test_a_move_stays_to_be_finished(self, contents: Contents) -> None:
        archived = archive.start_archive(contents, "db", "s", WHEN)
        record = claims.break_claim(archived, "db", 1, "by hand", WHEN).vms["db"]
        assert (record.claim, record.moving, record.status, record.failures) == (
            None,
            "archive",
            State.ARCHIVED,
            0,
        )


class TestGiveUpNode:
    def test_only_its_own_vms_and_not_those_that_are_missing_already(
        self, contents: Contents
    ) -> None:
        other = sightings.sight(contents, "beta", [Sighting("u3", "mail", "mail")], WHEN)
        other = other.with_vm(replace(other.vms["db"], missing_since="2020-01-01T00:00:00Z"))
        after = hosts.give_up(other, "alpha", WHEN)
        assert {key: vm.missing_since for key, vm in after.vms.items()} == {
            "web": WHEN,
            "db": "2020-01-01T00:00:00Z",
            "mail": None,
        }

    def test_another_host_that_lists_one_takes_it_over(self, contents: Contents) -> None:
        after = hosts.give_up(contents, "alpha", WHEN)
        assert (
            sightings.sight(after, "beta", [Sighting("u1", "web", "web")], WHEN).vms["web"].node
            == "beta"
        )

    def test_when_the_host_comes_back_so_do_they(self, contents: Contents) -> None:
        after = hosts.give_up(contents, "alpha", WHEN)
        assert (
            sightings.sight(after, "alpha", [Sighting("u1", "web", "web")], WHEN)
            .vms["web"]
            .missing_since
            is None
        )


def test_replace_machine() -> None:
    contents = (
        Contents()
        .with_node(NodeRecord("alpha", "old", "old-host"))
        .with_node(NodeRecord("beta", "b"))
    )
    after = hosts.replace_machine(contents, "alpha", "new", "new-host")
    assert after.nodes["alpha"] == NodeRecord("alpha", "new", "new-host")
    assert after.nodes["beta"] == contents.nodes["beta"]
    assert "alpha" not in hosts.replace_machine(contents, "alpha", "", "").nodes


class TestArchiveAgain:
    def test_an_interrupted_move_in_either_direction_becomes_an_archive(
        self, contents: Contents
    ) -> None:
        archived = archive.start_archive(contents, "db", "dead", WHEN)
        for moving in ("archive", "activate"):
            interrupted = archived.with_vm(replace(archived.vms["db"], claim=None, moving=moving))
            record = archive.resume_archive(interrupted, "db", "s", WHEN).vms["db"]
            assert record.claim is not None
            assert (record.claim.purpose, record.claim.session, record.moving) == (
                "archive",
                "s",
                "archive",
            )

    def test_not_while_somebody_moves_and_not_when_it_is_done(self, contents: Contents) -> None:
        archived = archive.start_archive(contents, "db", "alive", WHEN)
        with pytest.raises(LockedError, match="alive"):
            archive.resume_archive(archived, "db", "s", WHEN)
        done = archived.with_vm(replace(archived.vms["db"], claim=None, moving=None))
        with pytest.raises(IllegalMoveError):
            archive.resume_archive(done, "db", "s", WHEN)
