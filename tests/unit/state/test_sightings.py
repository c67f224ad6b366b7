"""What hosts see of their VMs: every rule of `shared.state.rules.sightings`."""

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.state.contents import Contents, UnusableRow
from shared.state.records import Claim, Power
from shared.state.rules import adoption, backup, hosts, sightings
from shared.state.rules.sightings import Sighting
from shared.state.states import Event, State
from tests.unit.state.builders import LATER, OWN, WHEN, claimed, contents, copy, only, vm


class TestSightings:
    def test_a_new_vm_is_new(self) -> None:
        after = sightings.sight(contents(), "alpha", [Sighting("u1", "web01", "web01")], WHEN)
        assert only(after) == vm("web01", State.NEW, uuid="u1")

    def test_nothing_new_changes_nothing(self) -> None:
        database = sightings.sight(contents(), "alpha", [Sighting("u1", "web01", "web01")], WHEN)
        assert (
            sightings.sight(database, "alpha", [Sighting("u1", "web01", "web01")], LATER)
            == database
        )

    def test_a_vm_that_is_gone_is_missing_since_it_was_first_missed(self) -> None:
        database = sightings.sight(
            contents(vm("web01"), vm("other", node="beta")), "alpha", [], WHEN
        )
        assert only(sightings.sight(database, "alpha", [], LATER)).missing_since == WHEN
        assert database.vms["other"].missing_since is None
        back = sightings.sight(database, "alpha", [Sighting("uuid-web01", "web01", "web01")], LATER)
        assert only(back).missing_since is None

    def test_the_same_name_on_two_hosts_does_not_collide(self) -> None:
        first = sightings.sight(contents(), "alpha", [Sighting("u1", "web01", "web01")], WHEN)
        both = sightings.sight(first, "beta", [Sighting("u2-23456789", "web01", "web01")], WHEN)
        assert set(both.vms) == {"web01", "web01@beta"}
        assert len({record.directory for record in both.vms.values()}) == 2

    def test_directories_that_differ_by_case_only_collide(self) -> None:
        both = sightings.sight(
            contents(),
            "alpha",
            [Sighting("u1", "Web", "Web"), Sighting("u2-23456789", "web", "web")],
            WHEN,
        )
        assert {record.directory for record in both.vms.values()} == {"Web", "web~u2-23456"}

    def test_what_belongs_to_an_unusable_record_is_given_to_no_other_vm(self) -> None:
        row = UnusableRow("vms", "web01", "{}", "it is wrong", "uuid-web01", "Web01")
        database = replace(contents(), unusable=(row,))
        seen = Sighting("uuid-web01", "web01", "web01")
        assert sightings.sight(database, "alpha", [seen], WHEN) == database
        after = sightings.sight(
            database, "alpha", [seen, Sighting("u2-23456789", "web01", "web01")], WHEN
        )
        assert [(record.key, record.directory) for record in after.vms.values()] == [
            ("web01@alpha", "web01~u2-23456")
        ]
        assert after.unusable == (row,)

    def test_a_renamed_vm_keeps_its_directory_and_its_copies(self) -> None:
        database = contents(vm("web01", last_copy=copy()))
        after = sightings.sight(database, "alpha", [Sighting("uuid-web01", "shop", "shop")], LATER)
        assert after.vms == {"shop": replace(only(database), key="shop", name="shop")}

    def test_two_vms_that_swap_names_keep_their_own_records(self) -> None:
        database = contents(vm("a"), vm("b"))
        after = sightings.sight(
            database, "alpha", [Sighting("uuid-a", "b", "b"), Sighting("uuid-b", "a", "a")], LATER
        )
        assert {record.uuid: record.name for record in after.vms.values()} == {
            "uuid-a": "b",
            "uuid-b": "a",
        }

    def test_a_vm_renamed_while_it_is_backed_up_is_still_held(self) -> None:
        database = contents(claimed())
        renamed = sightings.sight(
            database, "alpha", [Sighting("uuid-web01", "shop", "shop")], LATER
        )
        after = backup.published(backup.intend(renamed, "web01", OWN, copy()), "web01", OWN)
        assert set(after.vms) == {"shop"}
        assert after.vms["shop"].status == State.CLEAN

    def test_a_vm_that_moved_goes_on_at_its_new_host(self) -> None:
        gone = sightings.sight(contents(vm("web01", last_copy=copy())), "alpha", [], WHEN)
        after = sightings.sight(gone, "beta", [Sighting("uuid-web01", "web01", "web01")], LATER)
        assert (only(after).node, only(after).missing_since, only(after).last_copy) == (
            "beta",
            None,
            copy(),
        )

    def test_a_vm_that_two_hosts_list_stays_with_the_first(self) -> None:
        both = sightings.sight(
            contents(vm("web01")), "beta", [Sighting("uuid-web01", "web01", "web01")], WHEN
        )
        assert (only(both).node, only(both).also_on) == ("alpha", "beta")
        assert only(sightings.sight(both, "beta", [], LATER)).also_on is None
        third = [Sighting("uuid-web01", "web01", "web01")]
        assert sightings.sight(both, "gamma", third, LATER) == both, "they do not take turns"
        assert only(hosts.give_up(both, "beta", LATER)) == replace(only(both), also_on=None)

    def test_one_of_no_host_is_that_of_the_host_that_lists_it(self) -> None:
        """No host would ever say that it does not have it any more."""
        listed = [Sighting("uuid-web01", "web01", "web01")]
        found = only(sightings.sight(contents(vm("web01", node="")), "beta", listed, LATER))
        assert (found.node, found.also_on) == ("beta", None)

    def test_a_vm_does_not_move_while_somebody_works_on_it(self) -> None:
        busy = contents(claimed(missing_since=WHEN))
        assert (
            only(
                sightings.sight(busy, "beta", [Sighting("uuid-web01", "web01", "web01")], LATER)
            ).node
            == "alpha"
        )

    def test_a_record_of_version_one_gets_its_identity_from_the_host_that_lists_it(self) -> None:
        old = adoption.adopt_old(
            contents(), {"web01": State.BACKUP_IN_PROGRESS, "web02": State.ARCHIVED}, WHEN
        )
        assert {key: record.status for key, record in old.vms.items()} == {
            "web01": State.BACKUP_NECESSARY,
            "web02": State.ARCHIVED,
        }
        after = sightings.sight(old, "alpha", [Sighting("u1", "web01", "web01")], LATER)
        assert (only(after).uuid, only(after).node, only(after).directory) == (
            "u1",
            "alpha",
            "web01",
        )
        assert after.vms["web02"].missing_since is None, "nobody knows yet which host it is on"


class TestEvents:
    def test_an_event_is_applied_by_uuid(self) -> None:
        after = sightings.apply_events(
            contents(vm("web01"), vm("web02")), {"uuid-web01": (Event.CHANGED,)}
        )
        assert (only(after).status, after.vms["web02"].status) == (
            State.BACKUP_NECESSARY,
            State.CLEAN,
        )

    @pytest.mark.parametrize(
        "record",
        [
            claimed(),
            vm("web01", State.ARCHIVED),
            vm("web01", claim=Claim("a", 1, "archive", WHEN)),
            vm("web01", publishing=copy()),
            vm("web01", power=Power("savestate", "running", 1)),
        ],
        ids=["being backed up", "archived", "claimed", "being published", "touched"],
    )
    def test_a_vm_that_moved_on_is_passed_over(self, record) -> None:
        database = contents(record)
        assert (
            sightings.apply_events(
                database, {"uuid-web01": (Event.SEEN_RUNNING, Event.SEEN_STOPPED)}
            )
            == database
        )

    def test_several_events_are_one_change(self) -> None:
        """Found running and due: it does not stay RUNNING in between for others to see."""
        after = sightings.apply_events(
            contents(vm("web01")),
            {"uuid-web01": (Event.SEEN_RUNNING, Event.ARCHIVE, Event.SEEN_STOPPED)},
        )
        assert only(after).status == State.ARCHIVED, (
            "what the state does not allow any more is passed over"
        )


class Counted:
    """How many entries the tables of VMs had that were made, and how many calls there were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries = self.calls = 0
        made = Contents.__init__

        def init(contents: Contents, *values: object, **named: object) -> None:
            made(contents, *values, **named)  # type: ignore[arg-type]
            self.entries += len(contents.vms)

        monkeypatch.setattr(Contents, "__init__", init)

    def of(self, work: Callable[[], object]) -> int:
        self.entries = self.calls = 0

        def call(_frame: object, event: str, _argument: object) -> None:
            self.calls += event in ("call", "c_call")

        sys.setprofile(call)
        try:
            work()
        finally:
            sys.setprofile(None)
        return self.entries + self.calls


#: What a host may say of all its VMs in one tick; given the VMs that it listed before.
TICKS: dict[str, Callable[[Contents, list[Sighting]], Contents]] = {
    "the same": lambda known, seen: sightings.sight(known, "alpha", seen, LATER),
    "all new": lambda _, seen: sightings.sight(contents(), "alpha", seen, LATER),
    "all renamed": lambda known, seen: sightings.sight(
        known, "alpha", [replace(each, name=f"x{each.name}") for each in seen], LATER
    ),
    "all gone": lambda known, _: sightings.sight(known, "alpha", [], LATER),
    "all here, too": lambda known, seen: sightings.sight(known, "beta", seen, LATER),
    "all of version 1.0": lambda known, seen: sightings.sight(
        replace(
            known, vms={key: replace(each, uuid="", node="") for key, each in known.vms.items()}
        ),
        "alpha",
        seen,
        LATER,
    ),
    "all stopped": lambda known, seen: sightings.apply_events(
        known, {each.uuid: (Event.SEEN_STOPPED,) for each in seen}
    ),
    "all given up": lambda known, _: hosts.give_up(known, "alpha", LATER),
    "none usable": lambda known, seen: sightings.note_problems(
        known, {each.uuid: "why" for each in seen}, LATER
    ),
}


@pytest.mark.broad
@pytest.mark.parametrize("tick", TICKS)
def test_ten_times_as_many_vms_cost_ten_times_as_much(
    tick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thousand known VMs took a tick of 28 s. Counted, not timed."""
    counted = Counted(monkeypatch)

    def cost(number: int) -> int:
        seen = [Sighting(f"u{each}", f"vm{each}", f"vm{each}") for each in range(number)]
        known = sightings.sight(contents(), "alpha", seen, WHEN)
        return counted.of(lambda: TICKS[tick](known, seen))

    few, many = cost(30), cost(300)
    assert few > 100, "something was counted"
    assert many < 12 * few
