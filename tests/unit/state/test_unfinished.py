"""Unfinished work: what it is, since when, who finishes it, and what is given up of it."""

import json
from dataclasses import replace
from uuid import UUID

import pytest

from shared.host.errors import LockedError
from shared.state.records import Claim, Power, VmRecord
from shared.state.rules import archive, claims, expiry, sightings, unfinished, vm_records
from shared.state.rules.sightings import Sighting
from shared.state.states import State
from tests.unit.state.builders import WHEN, claimed, contents, copy, only, vm

LATER = "2026-11-23T00:00:00Z"
SAVED = Power("savestate", "running", 1, since=WHEN, node="alpha")
TOKEN = "0a0b" * 8
LIVE = Power(
    *("live", "running", 1, TOKEN, str(UUID(int=1))), folder=f"/vms/web01/vmbackup-{TOKEN}"
)


def begun(record: VmRecord) -> list[tuple[str, str, str]]:
    return [(each.kind, each.since, each.host) for each in unfinished.of(record)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"publishing": copy()}, [("publication", copy().finished, "")]),
        ({"moving": "archive", "moving_since": WHEN}, [("move", WHEN, "")]),
        ({"moving": "activate"}, [("move", "", "")]),
        ({"power": SAVED}, [("power", WHEN, "alpha")]),
        ({"power": LIVE}, [("power", "", "alpha")]),
        ({"leftovers": True, "leftovers_since": WHEN}, [("leftovers", WHEN, "")]),
        (
            {"publishing": copy(), "power": SAVED, "leftovers": True},
            [("publication", copy().finished, ""), ("power", WHEN, "alpha"), ("leftovers", "", "")],
        ),
        ({"power": SAVED, "leftovers": True, "claim": Claim("s", 1, "backup", WHEN)}, []),
    ],
)
def test_each_kind_has_since_when_and_who_finishes_it(
    values: dict[str, object], expected: list[tuple[str, str, str]]
) -> None:
    assert begun(vm("web01", **values)) == expected


def test_of_several_vms_in_the_order_of_their_names() -> None:
    records = [vm("web02", power=SAVED), vm("db", moving="archive"), vm("mail")]
    assert [each.vm for each in unfinished.of_all(records)] == ["db", "web02"]


def test_who_finishes_it_in_words_and_as_json() -> None:
    (move,) = unfinished.of(vm("web01", moving="archive"))
    (power,) = unfinished.of(vm("web01", power=SAVED))
    assert (move.finisher, power.finisher) == (
        "the next database worker of any host",
        "the next database worker on alpha",
    )
    assert move.to_json() == {
        "vm": "web01",
        "kind": "move",
        "what": "archive was interrupted",
        "since": None,
        "host": None,
        "finisher": "the next database worker of any host",
    }
    assert (power.to_json()["since"], power.to_json()["host"]) == (WHEN, "alpha")


def test_the_time_of_a_move_is_noted_and_goes_with_it() -> None:
    database = archive.start_archive(contents(vm("web01")), "web01", "s", WHEN)
    record = only(database)
    assert record.moving_since == WHEN
    own = record.claim
    assert own is not None
    freed = claims.break_claim(database, "web01", own.number, "killed", LATER)
    assert begun(only(freed)) == [("move", WHEN, ""), ("leftovers", LATER, "")]
    resumed = archive.resume_move(freed, "web01", "s2", LATER)
    assert only(resumed).moving_since == WHEN
    moved = archive.moved(resumed, "web01", only(resumed).claim)  # type: ignore[arg-type]
    assert (only(moved).moving, only(moved).moving_since) == (None, "")
    activated = archive.start_activation(moved, "web01", "s3", LATER)
    assert only(activated).moving_since == LATER


def test_the_time_of_partial_files_is_that_of_the_first_and_goes_with_them() -> None:
    freed = claims.break_claim(contents(claimed()), "web01", 1, "killed", WHEN)
    assert only(freed).leftovers_since == WHEN
    again = claims.grant(freed, "web01", "s", "backup", LATER)
    again = claims.break_claim(again, "web01", only(again).claim.number, "killed", LATER)  # type: ignore[union-attr]
    assert only(again).leftovers_since == WHEN
    tidy = only(expiry.without_leftovers(again, ["web01"]))
    assert (tidy.leftovers, tidy.leftovers_since) == (False, "")


def test_nothing_new_is_written_where_nothing_is_new() -> None:
    old = vm("web01", power=Power("live", "running", 1), leftovers=True, moving="archive")
    written = json.dumps(old.to_json())
    assert not any(name in written for name in ('since":', "power_left", '"node": ""'))


class TestGivenUp:
    def test_a_note_is_put_aside_and_the_vm_can_be_worked_on(self) -> None:
        database = contents(vm("web01", power=SAVED))
        for purpose in ("pin", "prune", "verify"):
            with pytest.raises(LockedError) as refused:
                claims.grant(database, "web01", "s", purpose, WHEN)  # type: ignore[arg-type]
            assert "vmbackup-lock recover alpha" in refused.value.hint
        with pytest.raises(LockedError) as refused:
            vm_records.forget(database, "web01")
        assert "vmbackup-lock recover alpha" in refused.value.hint
        after = unfinished.leave_power(database, ["web01", "unknown"])
        assert (only(after).power, only(after).power_left) == (None, SAVED)
        assert begun(only(after)) == []
        assert unfinished.leave_power(after, ["web01"]) == after
        for purpose in ("pin", "prune", "verify"):
            claims.grant(after, "web01", "s", purpose, WHEN)  # type: ignore[arg-type]
        assert vm_records.forget(after, "web01").vms == {}

    def test_a_vm_that_somebody_holds_keeps_its_note(self) -> None:
        database = contents(claimed(power=SAVED))
        assert unfinished.leave_power(database, ["web01"]) == database

    def test_the_host_of_an_older_note_is_that_of_its_vm(self) -> None:
        after = only(unfinished.leave_power(contents(vm("web01", power=LIVE)), ["web01"]))
        assert after.power_left == replace(LIVE, node="alpha")

    def test_it_is_taken_back_when_it_was_said_and_not_another_one(self) -> None:
        database = contents(vm("web01", power_left=SAVED))
        assert unfinished.without_power_left(database, "web01", LIVE) == database
        assert unfinished.without_power_left(database, "unknown", SAVED) == database
        assert only(unfinished.without_power_left(database, "web01", SAVED)).power_left is None

    def test_what_may_remain(self) -> None:
        record = vm("web01")
        saved = unfinished.may_remain(record, SAVED)
        assert "still be saved" in saved
        assert f"startvm {record.uuid}" in saved
        off = unfinished.may_remain(record, replace(SAVED, method="shutdown"))
        assert "still be off" in off
        live = unfinished.may_remain(record, LIVE)
        assert all(word in live for word in (f"vmbackup-{TOKEN}", LIVE.clone, LIVE.folder, "alpha"))
        assert "startvm" not in live
        paused = unfinished.may_remain(record, replace(LIVE, method="pause"))
        assert f"may still be paused (VBoxManage controlvm {record.uuid} resume)" in paused
        assert "snapshot" not in paused
        assert "controlvm" not in live


class TestMoved:
    def moved(self, power: Power) -> VmRecord:
        database = contents(vm("web01", power=power, missing_since=WHEN))
        uuid = only(database).uuid
        return only(sightings.sight(database, "beta", [Sighting(uuid, "web01", "web01")], WHEN))

    @pytest.mark.parametrize("power", [SAVED, replace(SAVED, node="")])
    def test_the_note_stays_that_of_the_host_that_stopped_the_vm(self, power: Power) -> None:
        after = self.moved(power)
        assert (after.node, after.power) == ("beta", SAVED)
        assert unfinished.is_foreign(after)

    def test_a_snapshot_and_a_clone_go_with_the_vm(self) -> None:
        assert not unfinished.is_foreign(self.moved(LIVE))

    def test_on_its_own_host_it_is_none_of_another(self) -> None:
        database = contents(vm("web01", State.CLEAN, power=SAVED))
        assert not unfinished.is_foreign(only(database))
        assert not unfinished.is_foreign(vm("web01"))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("token", ["x", "../..", "0A0B" * 8, "0a0b" * 9]),
        ("clone", ["x", "web01", "{00000000-0000-4000-8000-000000000000}"]),
        ("snapshot", ["x", "--help"]),
        ("folder", ["/home/ann", "x", f"vmbackup-{TOKEN}", f"/x/vmbackup-{TOKEN}/..", f"/{TOKEN}"]),
    ],
)
def test_a_note_names_nothing_on_a_host_but_what_backups_make(name: str, values: list[str]) -> None:
    """Whoever may write to the NAS may write it, and it is removed on the host."""
    assert Power.from_json(LIVE.to_json()) == LIVE
    for value in values:
        with pytest.raises(ValueError, match=name):
            Power.from_json({**LIVE.to_json(), name: value})
