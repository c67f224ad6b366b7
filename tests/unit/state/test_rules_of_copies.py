"""What is done to VMs and copies besides backups: archive, verify, forget."""

from dataclasses import replace

import pytest

from shared.host.errors import (
    IllegalMoveError,
    LockedError,
    LockLostError,
    NodeConflictError,
    UnusableRecordError,
)
from shared.state.contents import UnusableRow
from shared.state.records import Claim, Power
from shared.state.rules import archive, backup, claims, copies, hosts, vm_records
from shared.state.states import Event, State
from tests.unit.state.builders import LATER, OWN, WHEN, claimed, contents, copy, only, vm


class TestArchive:
    def test_archive_claims_the_vm_for_its_move(self) -> None:
        after = archive.start_archive(contents(vm("web01")), "web01", "alpha.1", WHEN)
        assert (only(after).status, only(after).moving, only(after).claim.purpose) == (
            State.ARCHIVED,
            "archive",
            "archive",
        )
        assert only(archive.moved(after, "web01", only(after).claim)) == vm("web01", State.ARCHIVED)

    def test_a_vm_that_is_being_backed_up_is_refused(self) -> None:
        with pytest.raises(LockedError):
            archive.start_archive(contents(claimed()), "web01", "beta.1", WHEN)
        with pytest.raises(IllegalMoveError, match="BACKUP_IN_PROGRESS cannot become ARCHIVED"):
            archive.start_archive(
                contents(claimed(claim=None, publishing=copy())), "web01", "beta.1", WHEN
            )

    @pytest.mark.parametrize(
        ("event", "state"),
        [
            (Event.ACTIVATE_UNCHANGED, State.CLEAN),
            (Event.ACTIVATE_CHANGED, State.BACKUP_NECESSARY),
            (Event.ACTIVATE_EMPTY, State.NEW),
        ],
    )
    def test_an_activated_vm_stays_archived_until_its_copies_are_back(
        self, event: Event, state: State
    ) -> None:
        started = archive.start_activation(
            contents(vm("web01", State.ARCHIVED)), "web01", "alpha.1", WHEN
        )
        assert only(started).status == State.ARCHIVED
        assert only(archive.moved(started, "web01", only(started).claim, event)) == vm(
            "web01", state
        )

    def test_only_an_archived_vm_is_activated(self) -> None:
        with pytest.raises(IllegalMoveError, match="CLEAN"):
            archive.start_activation(contents(vm("web01")), "web01", "alpha.1", WHEN)

    def test_an_interrupted_move_is_taken_up_by_the_next(self) -> None:
        left = contents(vm("web01", State.ARCHIVED, moving="activate"))
        assert only(archive.resume_move(left, "web01", "beta.1", LATER)).claim.purpose == "activate"
        with pytest.raises(IllegalMoveError):
            archive.resume_move(contents(vm("web01")), "web01", "beta.1", LATER)


class TestForget:
    @pytest.mark.parametrize("state", sorted(set(State) - {State.BACKUP_IN_PROGRESS}))
    def test_it_deletes_the_record(self, state: State) -> None:
        assert vm_records.forget(contents(vm("web01", state), vm("web02")), "web01").vms.keys() == {
            "web02"
        }

    def test_not_while_somebody_works_on_it(self) -> None:
        with pytest.raises(LockedError):
            vm_records.forget(contents(claimed()), "web01")
        with pytest.raises(IllegalMoveError):
            vm_records.forget(contents(claimed(claim=None, publishing=copy())), "web01")


class TestVerification:
    OWN = Claim("alpha.1", 1, "verify", WHEN)

    def held(self, status: State = State.CLEAN, **values):
        return contents(vm("web01", status, claim=self.OWN, **values), granted=9)

    def found(self, newest, *damaged: str):
        return copies.FoundCopies(newest, damaged, LATER)

    def test_a_claim_changes_no_state(self) -> None:
        for status in State:
            if status != State.BACKUP_IN_PROGRESS:
                record = only(
                    claims.grant(contents(vm("web01", status)), "web01", "alpha.1", "verify", WHEN)
                )
                assert (record.status, record.claim) == (status, self.OWN)

    @pytest.mark.parametrize(
        "values",
        [{"publishing": copy()}, {"moving": "archive"}, {"power": Power("live", "running", 1)}],
    )
    def test_what_was_begun_is_finished_first(self, values) -> None:
        with pytest.raises(LockedError):
            claims.grant(contents(vm("web01", **values)), "web01", "alpha.1", "verify", WHEN)

    def test_all_good(self) -> None:
        record = only(
            copies.record(self.held(last_copy=copy(7)), "web01", self.OWN, self.found(copy(7)))
        )
        assert record == vm("web01", last_copy=copy(7), verified=LATER)

    @pytest.mark.parametrize("left", [copy(5), None])
    def test_the_newest_copy_is_lost(self, left) -> None:
        record = only(
            copies.record(self.held(last_copy=copy(7)), "web01", self.OWN, self.found(left, "a"))
        )
        assert (record.status, record.last_copy, record.damaged, record.claim) == (
            State.BACKUP_NECESSARY,
            left,
            ("a",),
            None,
        )

    @pytest.mark.parametrize(
        "status", [State.ARCHIVED, State.RUNNING, State.NEW, State.BACKUP_NECESSARY]
    )
    def test_only_a_clean_vm_changes_its_state(self, status: State) -> None:
        record = only(
            copies.record(
                self.held(status, last_copy=copy(7)), "web01", self.OWN, self.found(copy(5), "a")
            )
        )
        assert (record.status, record.last_copy) == (status, copy(5))

    def test_a_copy_that_is_good_after_all_counts_again(self) -> None:
        before = self.held(State.BACKUP_NECESSARY, last_copy=copy(5), damaged=("a",))
        record = only(copies.record(before, "web01", self.OWN, self.found(copy(7))))
        assert (record.status, record.last_copy, record.damaged) == (
            State.BACKUP_NECESSARY,
            copy(7),
            (),
        )

    def test_whoever_lost_the_claim_changes_nothing(self) -> None:
        with pytest.raises(LockLostError):
            copies.record(contents(vm("web01")), "web01", self.OWN, self.found(None))

    def test_the_first_copy_was_read_when_it_was_made_and_later_ones_make_it_no_younger(
        self,
    ) -> None:
        first = only(backup.published(contents(claimed(publishing=copy())), "web01", OWN))
        again = only(
            backup.published(
                contents(claimed(publishing=copy(), verified="2026-01-01T00:00:00Z")), "web01", OWN
            )
        )
        assert (first.verified, again.verified) == (copy().finished, "2026-01-01T00:00:00Z")


class TestUnusableRecords:
    ROWS = (
        UnusableRow("vms", "web01", "{}", "the field 'name' is missing"),
        UnusableRow("nodes", "alpha", "{}", "the field 'machine' is missing"),
    )

    def test_a_vm_with_one_is_refused_and_can_be_forgotten(self) -> None:
        database = replace(contents(vm("web02")), unusable=self.ROWS)
        with pytest.raises(UnusableRecordError, match="'name' is missing") as caught:
            claims.grant(database, "web01", "alpha.1", "backup", WHEN)
        assert "vmbackup-admin forget web01" in (caught.value.hint or "")
        after = vm_records.forget(database, "web01")
        assert (after.unusable, after.vms) == (self.ROWS[1:], database.vms)

    def test_a_host_with_one_is_refused_until_its_name_is_given_up(self) -> None:
        database = replace(contents(), unusable=self.ROWS)
        with pytest.raises(NodeConflictError, match="'machine' is missing"):
            hosts.join(database, "alpha", "machine", "alpha")
        assert hosts.join(database, "beta", "machine", "beta").nodes.keys() == {"beta"}
        after = hosts.replace_machine(database, "alpha", "machine", "alpha")
        assert (after.unusable, after.nodes.keys()) == (self.ROWS[:1], {"alpha"})
