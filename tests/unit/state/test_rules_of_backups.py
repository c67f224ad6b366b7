"""What transactions do to hosts, sessions, claims, backups and the queue: `shared.state.rules`."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.host.errors import (
    IllegalMoveError,
    LockedError,
    LockLostError,
    NodeConflictError,
    TooManyExportsError,
    UnknownVmError,
    UsageError,
)
from shared.state.contents import Contents, UnusableRow
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import Claim, Power
from shared.state.rules import adoption, archive, backup, claims, expiry, hosts, queue, vm_records
from shared.state.states import Event, State
from tests.unit.state.builders import LATER, OWN, WHEN, claimed, contents, copy, only, session, vm


class TestNodes:
    def test_a_node_joins_once(self) -> None:
        joined = hosts.join(contents(), "alpha", "machine", "alpha.example")
        assert joined.nodes == {"alpha": NodeRecord("alpha", "machine", "alpha.example")}
        assert hosts.join(joined, "alpha", "machine", "alpha.example") is joined

    def test_another_machine_of_that_name_is_refused_with_the_cure(self) -> None:
        joined = hosts.join(contents(), "alpha", "machine", "alpha.example")
        with pytest.raises(NodeConflictError) as caught:
            hosts.join(joined, "alpha", "other", "alpha.example")
        assert "VMBACKUP_NODE" in caught.value.hint

    @pytest.mark.parametrize(("known", "now"), [("", "machine"), ("machine", ""), ("", "")])
    def test_a_machine_that_cannot_say_who_it_is_is_not_refused(self, known: str, now: str) -> None:
        hosts.check_machine(hosts.join(contents(), "alpha", known, "alpha"), "alpha", now)


class TestExpiry:
    def test_it_frees_what_the_session_held_and_nothing_else(self) -> None:
        database = contents(
            claimed("web01", 1),
            claimed("web02", 2, by="beta.1"),
            sessions=(session("alpha.1"), session("beta.1")),
            granted=2,
        )
        after = expiry.expire(database, ["alpha.1"], "its process is gone", LATER)
        record = only(after)
        assert (record.status, record.claim, record.failures, record.last_failed_claim) == (
            State.BACKUP_NECESSARY,
            None,
            1,
            1,
        )
        assert (record.last_error, record.last_error_at, record.leftovers) == (
            "its process is gone",
            LATER,
            True,
        )
        assert after.vms["web02"] == database.vms["web02"]
        assert after.sessions["beta.1"].state == "live"

    def test_the_tombstone_remembers_the_last_commit(self) -> None:
        after = expiry.expire(
            contents(sessions=(session("alpha.1", sequence=5, generation=9, pid=77),)),
            ["alpha.1"],
            "gone",
            WHEN,
            found_on="beta",
        )
        assert after.sessions["alpha.1"] == session(
            "alpha.1", "expired", sequence=5, generation=9, over=f"gone (found on beta, {WHEN})"
        )

    def test_a_copy_that_is_being_put_in_place_is_not_given_up(self) -> None:
        database = contents(claimed(publishing=copy()), sessions=(session("alpha.1"),))
        record = only(expiry.expire(database, ["alpha.1"], "gone", LATER))
        assert (record.status, record.claim, record.publishing, record.failures) == (
            State.BACKUP_IN_PROGRESS,
            None,
            copy(),
            0,
        )

    def test_an_interrupted_move_stays_to_be_finished(self) -> None:
        database = contents(
            vm(
                "web01",
                State.ARCHIVED,
                moving="archive",
                claim=Claim("alpha.1", 1, "archive", WHEN),
            ),
            sessions=(session("alpha.1"),),
        )
        record = only(expiry.expire(database, ["alpha.1"], "gone", LATER))
        assert (record.status, record.claim, record.moving) == (State.ARCHIVED, None, "archive")

    @pytest.mark.parametrize("state", ["ended", "expired"])
    def test_a_session_that_is_over_stays_as_it_is(self, state: str) -> None:
        database = contents(sessions=(session("alpha.1", state),))
        assert expiry.expire(database, ["alpha.1", "never.seen"], "gone", LATER) is database

    @pytest.mark.parametrize("rows", [(), (session("alpha.1", "ended"),)])
    def test_a_claim_of_a_session_that_is_over_is_freed_and_no_other(
        self, rows: tuple[SessionRecord, ...]
    ) -> None:
        database = contents(
            claimed("web01", 1, publishing=copy()),
            claimed("web02", 2, by="beta.1"),
            sessions=(*rows, session("beta.1")),
            granted=2,
        )
        assert expiry.ownerless(database) == ["alpha.1"]
        after = expiry.free_ownerless(database, "gone", LATER)
        record = only(after)
        assert (record.claim, record.publishing, record.leftovers) == (None, copy(), True)
        assert after.vms["web02"] == database.vms["web02"]
        with pytest.raises(LockLostError):
            claims.held(after, "web01", OWN)

    @pytest.mark.parametrize("key", ["alpha.1", ""])
    def test_a_session_whose_row_does_not_fit_may_live(self, key: str) -> None:
        row = UnusableRow("sessions", key, "{}", "a field is missing")
        database = replace(contents(claimed(by="alpha.1")), unusable=(row,))
        assert expiry.ownerless(database) == []
        after = expiry.remove_row(database, key, "by hand", LATER)
        assert (after.unusable, expiry.ownerless(after)) == ((), [] if key else ["alpha.1"])

    def test_a_record_of_unlisted_copies_that_became_more_than_new_is_an_ordinary_one(self) -> None:
        taken = vm("uuid-web01", name="web01", status=State.BACKUP_NECESSARY, taken_in_by="alpha.1")
        database = contents(taken, sessions=(session("alpha.1"),))
        assert expiry.without_abandoned(database) is database, "its session lives"
        after = expiry.expire(database, ["alpha.1"], "gone", LATER)
        assert list(after.vms) == ["web01"]
        assert (only(after).taken_in_by, only(after).status) == ("", State.BACKUP_NECESSARY)

    def test_it_stays_as_it_is_while_somebody_works_on_it(self) -> None:
        taken = replace(claimed("uuid-web01", by="beta.1"), name="web01", taken_in_by="alpha.1")
        database = contents(taken, sessions=(session("beta.1"),))
        assert expiry.without_abandoned(database) is database
        after = expiry.expire(database, ["beta.1"], "gone", LATER)
        assert (list(after.vms), only(after).taken_in_by) == (["web01"], "")

    def test_a_session_whose_row_does_not_fit_keeps_what_it_had_taken_in(self) -> None:
        row = UnusableRow("sessions", "alpha.1", "{}", "a field is missing")
        taken = vm("web01", State.NEW, taken_in_by="alpha.1")
        database = replace(contents(taken), unusable=(row,))
        assert expiry.without_abandoned(database) is database
        assert expiry.remove_row(database, "alpha.1", "by hand", LATER).vms == {}

    def test_leftovers_are_forgotten_when_they_are_tidied(self) -> None:
        database = contents(vm("web01", leftovers=True), vm("web02", leftovers=True))
        after = expiry.without_leftovers(database, ["web01", "unknown"])
        assert (only(after).leftovers, after.vms["web02"].leftovers) == (False, True)


class TestClaims:
    def test_a_claim_and_its_state_are_one_change_and_its_number_grows(self) -> None:
        database = contents(
            vm("web01", State.BACKUP_NECESSARY), vm("web02", State.BACKUP_NECESSARY), granted=16
        )
        after = claims.grant(
            claims.grant(database, "web01", "alpha.1", "backup", WHEN),
            "web02",
            "alpha.1",
            "backup",
            WHEN,
        )
        assert only(after).claim == Claim("alpha.1", 17, "backup", WHEN)
        assert (only(after).status, after.vms["web02"].claim.number, after.claims_granted) == (
            State.BACKUP_IN_PROGRESS,
            18,
            18,
        )

    def test_a_claimed_vm_is_refused_by_whom_for_what_and_since_when(self) -> None:
        with pytest.raises(LockedError, match=f"backup by session alpha.1 since {WHEN}"):
            claims.grant(contents(claimed()), "web01", "beta.1", "backup", LATER)

    @pytest.mark.parametrize("state", sorted(set(State) - {State.BACKUP_NECESSARY}))
    def test_only_what_needs_a_backup_is_backed_up(self, state: State) -> None:
        with pytest.raises(IllegalMoveError, match=state):
            claims.grant(contents(vm("web01", state)), "web01", "alpha.1", "backup", WHEN)

    @pytest.mark.parametrize("purpose", ["publish", "power"])
    def test_there_must_be_something_to_finish(self, purpose: str) -> None:
        with pytest.raises(IllegalMoveError):
            claims.grant(contents(vm("web01")), "web01", "alpha.1", purpose, WHEN)

    def test_an_unknown_vm_is_refused_with_similar_ones(self) -> None:
        with pytest.raises(UnknownVmError) as caught:
            vm_records.find(contents(vm("web01"), vm("WEB02"), vm("db")), "web")
        assert caught.value.hint == "did you mean WEB02 or web01?"

    def test_a_vm_that_is_called_like_the_uuid_of_another_one_is_in_nobodys_way(self) -> None:
        other = vm("web01", uuid="15c399b5-0000-4000-8000-000000000001")
        own = "d7c4a464-0000-4000-8000-000000000002"
        namesake = vm(other.uuid, State.BACKUP_NECESSARY, uuid=own)
        known = contents(other, namesake)
        granted = claims.grant(known, namesake.key, "alpha.1", "backup", WHEN)
        assert granted.vms["web01"].claim is None
        assert vm_records.meant(known, "web01") == other
        assert vm_records.meant(known, namesake.uuid.upper()) == namesake
        with pytest.raises(UsageError, match="the name of one VM and the UUID of another one"):
            vm_records.meant(known, other.uuid)

    @pytest.mark.parametrize(
        "own",
        [Claim("beta.1", 1, "backup", WHEN), Claim("alpha.1", 2, "backup", WHEN)],
        ids=["another session", "another claim"],
    )
    @pytest.mark.parametrize(
        "change",
        [
            lambda database, own: backup.intend(database, "web01", own, copy()),
            lambda database, own: backup.published(database, "web01", own),
            lambda database, own: backup.failed(database, "web01", own, "", WHEN),
            lambda database, own: backup.found_running(database, "web01", own, WHEN),
            lambda database, own: claims.release(database, "web01", own),
            lambda database, own: backup.touch(database, "web01", own, Power("live", "running", 1)),
            lambda database, own: backup.untouched(database, "web01", own),
            lambda database, own: archive.moved(database, "web01", own),
        ],
        ids=[
            "intend",
            "published",
            "failed",
            "found_running",
            "released",
            "touch",
            "untouched",
            "moved",
        ],
    )
    def test_whoever_lost_the_claim_changes_nothing(self, change, own: Claim) -> None:
        with pytest.raises(LockLostError):
            change(contents(claimed(publishing=copy())), own)


class TestBackups:
    def test_a_published_copy_makes_the_vm_clean(self) -> None:
        database = contents(
            claimed(failures=3, last_error="x", last_error_at=WHEN, last_failed_claim=1)
        )
        after = only(backup.published(backup.intend(database, "web01", OWN, copy()), "web01", OWN))
        assert after == vm("web01", State.CLEAN, last_copy=copy(), verified=WHEN, backed_up=WHEN)

    @pytest.mark.parametrize(
        ("event", "state"),
        [
            (Event.PUBLISHED_RUNNING, State.RUNNING),
            (Event.PUBLISHED_CHANGED, State.BACKUP_NECESSARY),
        ],
    )
    def test_a_vm_that_was_used_since_it_was_frozen_has_its_copy(
        self, event: Event, state: State
    ) -> None:
        begun = backup.intend(contents(claimed(failures=3)), "web01", OWN, copy())
        after = only(backup.published(begun, "web01", OWN, event=event))
        assert after == vm("web01", state, last_copy=copy(), verified=WHEN, backed_up=WHEN)

    def test_nothing_is_published_that_was_not_announced(self) -> None:
        with pytest.raises(IllegalMoveError):
            backup.published(contents(claimed()), "web01", OWN)

    def test_another_worker_finishes_what_was_announced(self) -> None:
        left = expiry.expire(
            contents(claimed(publishing=copy()), sessions=(session("alpha.1"),), granted=1),
            ["alpha.1"],
            "",
            WHEN,
        )
        taken = claims.grant(left, "web01", "beta.1", "publish", LATER)
        own = only(taken).claim
        assert (only(taken).status, own.number) == (State.BACKUP_IN_PROGRESS, 2)
        assert only(backup.published(taken, "web01", own)).last_copy == copy(1)

    def test_a_failure_goes_to_the_back_of_the_queue_and_keeps_the_older_copy(self) -> None:
        after = only(
            backup.failed(
                contents(claimed(last_copy=copy(), publishing=copy(1))),
                "web01",
                OWN,
                "disk full",
                LATER,
            )
        )
        assert (after.status, after.claim, after.publishing) == (State.BACKUP_NECESSARY, None, None)
        assert (after.failures, after.last_error, after.last_error_at, after.last_failed_claim) == (
            1,
            "disk full",
            LATER,
            1,
        )
        assert after.last_copy == copy()

    def test_a_running_vm_is_no_failure(self) -> None:
        after = only(backup.found_running(contents(claimed()), "web01", OWN, WHEN))
        assert (after.status, after.claim, after.failures) == (State.RUNNING, None, 0)

    def test_a_copy_that_is_being_put_in_place_is_not_forgotten_because_the_vm_runs(self) -> None:
        with pytest.raises(IllegalMoveError):
            backup.found_running(contents(claimed(publishing=copy())), "web01", OWN, WHEN)

    def test_a_backup_cannot_be_given_up_without_an_end(self) -> None:
        with pytest.raises(IllegalMoveError):
            claims.release(contents(claimed()), "web01", OWN)
        assert (
            only(claims.release(contents(claimed(publishing=copy())), "web01", OWN)).publishing
            == copy()
        )


class TestAdoptedEdits:
    def test_a_state_set_by_hand_is_taken_over_and_says_so(self) -> None:
        after = only(
            adoption.adopt_edit(contents(vm("web01")), {"web01": State.BACKUP_NECESSARY}, WHEN)
        )
        assert (after.status, after.last_error) == (
            State.BACKUP_NECESSARY,
            f"state set by hand on {WHEN}",
        )

    def test_lines_that_say_what_is_and_lines_that_are_missing_change_nothing(self) -> None:
        database = contents(vm("web01"), claimed("web02"))
        assert adoption.adopt_edit(database, {"web02": State.BACKUP_IN_PROGRESS}, WHEN) is database

    @pytest.mark.parametrize(
        ("record", "wanted", "error"),
        [
            (vm("web01", State.NEW), State.CLEAN, IllegalMoveError),
            (vm("web01"), State.BACKUP_IN_PROGRESS, IllegalMoveError),
            (vm("web01"), State.ARCHIVED, IllegalMoveError),
            (vm("web01", State.ARCHIVED), State.NEW, IllegalMoveError),
            (claimed(), State.NEW, LockedError),
            (claimed(claim=None, publishing=copy()), State.NEW, IllegalMoveError),
            (vm("web02"), State.NEW, UnknownVmError),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, record, wanted: State, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            adoption.adopt_edit(contents(record), {"web01": wanted}, WHEN)


def _in_line() -> Contents:
    """Two VMs wait for a place, each with a worker that waits.

    A third came later, and a fourth is clean.
    """
    waiting = [vm(key, State.BACKUP_NECESSARY) for key in ("web01", "web02", "web03")]
    database = contents(*waiting, vm("web04"), sessions=(session("alpha.1"), session("beta.1")))
    return queue.join(queue.join(database, "web01", "alpha.1"), "web02", "beta.1")


class TestPlacesOnTheNas:
    def test_the_limit_counts_backups_of_all_hosts_and_nothing_else(self) -> None:
        database = contents(
            claimed("web01", 1, by="beta.1"),
            vm("web02", State.BACKUP_NECESSARY),
            vm("web03"),
            granted=1,
        )
        database = claims.grant(database, "web03", "beta.1", "prune", WHEN)
        assert queue.exports(database) == 1
        with pytest.raises(TooManyExportsError, match=r"1 exports run on the NAS$"):
            claims.grant(database, "web02", "alpha.1", "backup", WHEN, limit=1)
        assert (
            only(claims.grant(database, "web02", "alpha.1", "backup", WHEN, limit=2), "web02").claim
            is not None
        )
        assert (
            only(claims.grant(database, "web02", "alpha.1", "backup", WHEN), "web02").claim
            is not None
        )

    def test_expiring_a_dead_session_frees_its_place(self) -> None:
        database = contents(
            claimed("web01", 1),
            vm("web02", State.BACKUP_NECESSARY),
            sessions=(session("alpha.1"),),
            granted=1,
        )
        freed = expiry.expire(database, ["alpha.1"], "gone", LATER)
        assert queue.exports(freed) == 0
        claims.grant(freed, "web02", "beta.1", "backup", WHEN, limit=1)

    def test_who_waits_for_longer_comes_first(self) -> None:
        database = _in_line()
        with pytest.raises(
            TooManyExportsError,
            match="0 exports run on the NAS, and 1 more waits in line before it",
        ):
            claims.grant(database, "web02", "beta.1", "backup", WHEN, limit=1)
        with pytest.raises(TooManyExportsError, match="2 more wait in line"):
            claims.grant(database, "web03", "gamma.1", "backup", WHEN, limit=2)
        claims.grant(database, "web02", "beta.1", "backup", WHEN, limit=2)
        taken = claims.grant(database, "web01", "alpha.1", "backup", WHEN, limit=1)
        assert only(taken).queued is None
        assert queue.ahead(taken, "web02") == 0

    @pytest.mark.parametrize(
        "gone",
        [
            lambda database: expiry.expire(database, ["alpha.1"], "gone", LATER),
            lambda database: queue.leave(database, "web01", "alpha.1"),
            lambda database: claims.grant(database, "web04", "alpha.1", "verify", WHEN),
            lambda database: queue.join(database, "web03", "alpha.1"),
            lambda database: vm_records.forget(database, "web01"),
            lambda database: database.with_vm(replace(only(database), status=State.RUNNING)),
        ],
        ids=[
            "its worker died",
            "it gave up",
            "its worker does something else",
            "its worker waits for another VM",
            "forgotten",
            "it runs",
        ],
    )
    def test_a_vm_that_nobody_waits_for_now_holds_up_nobody(
        self, gone: Callable[[Contents], Contents]
    ) -> None:
        claims.grant(gone(_in_line()), "web02", "beta.1", "backup", WHEN, limit=1)

    def test_a_vm_whose_worker_gave_up_is_where_it_was_when_the_next_one_waits(self) -> None:
        database = queue.join(queue.leave(_in_line(), "web01", "alpha.1"), "web01", "beta.1")
        assert queue.ahead(database, "web01") == 0
        assert queue.ahead(database, "web03") == 1, (
            "beta.1 waits for web01 now, and for web02 no longer"
        )

    def test_a_vm_that_may_not_be_claimed_does_not_get_in_line(self) -> None:
        database = contents(vm("web01"), sessions=(session("alpha.1"),))
        assert queue.join(database, "web01", "alpha.1") is database
        assert queue.join(database, "gone", "alpha.1") is database

    def test_why_a_vm_waits_is_noted_until_it_is_taken(self) -> None:
        database = contents(vm("web01", State.BACKUP_NECESSARY), vm("web02"))
        noted = backup.note_waiting(
            database, {"web01": "its window", "web02": "its window", "gone": "its window"}
        )
        assert (only(noted).waiting, only(noted, "web02").waiting) == ("its window", "")
        assert backup.note_waiting(noted, {"web01": "its window"}) is noted
        assert only(claims.grant(noted, "web01", "alpha.1", "backup", WHEN)).waiting == ""

    @pytest.mark.parametrize("purpose", ["pin", "prune"])
    @pytest.mark.parametrize(
        "unfinished",
        [{"publishing": copy()}, {"moving": "archive"}, {"power": Power("live", "running", 1)}],
    )
    def test_copies_are_left_alone_until_what_a_crash_left_is_finished(
        self, purpose: str, unfinished: dict[str, object]
    ) -> None:
        with pytest.raises(LockedError, match="finished first"):
            claims.grant(contents(vm("web01", **unfinished)), "web01", "alpha.1", purpose, WHEN)  # type: ignore[arg-type]
