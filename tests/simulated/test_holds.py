"""A VM runs from a copy while workers of all hosts go on: backups, retention, silence, losses."""

import shutil
from dataclasses import replace

import pytest

from shared.copies import catalogue, sidecar_files
from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.site import Site
from shared.state.hold import Hold
from shared.state.rules import holds as rules
from shared.state.sessions import recovery
from shared.state.sessions.deaths import Dead
from shared.state.states import State
from shared.tasks import copy_hold, pruning, rebuilding, verification
from tests.simulated.conftest import Rig
from tests.simulated.test_verify import back_up
from tests.support.copies import ova, put_copy
from worker import database

TITLE = "beta:web-now"
INDEX = "5" * 64
STAMPS = ["20261101T000000Z-3", "20261102T000000Z-4"]


def two_copies(rig: Rig) -> list[str]:
    """A VM with two copies that no worker made; their stamps, oldest first."""
    uuid = rig.host().make_vm("web01").uuid
    rig.look()
    for stamp in STAMPS:
        put_copy(rig.nas / "web01", stamp, ova(), uuid=uuid, vm="web01", node="alpha")
    return STAMPS


def place(rig: Rig, stamp: str, host: str = "beta") -> copy_hold.Placed:
    """The VM `web-now` on another host runs from the copy."""
    return put_hold(rig.site(host), stamp)


def put_hold(site: Site, stamp: str) -> copy_hold.Placed:
    record = site.database.head().contents.vms["web01"]
    return copy_hold.place(site, record, stamp, name="web-now", index=INDEX)


def stands(rig: Rig) -> tuple[list[str], list[str]]:
    """What the record says, and what the sidecars say: the stamps of held copies."""
    recorded = [each.hold.stamp for each in rules.of_all(rig.site().database.head().contents)]
    found = catalogue.read(rig.nas / "web01", None).copies
    return recorded, [copy.stamp for copy in found if copy.holds]


def there(rig: Rig) -> list[str]:
    return [copy.stamp for copy in catalogue.read(rig.nas / "web01", None).good]


def test_backups_and_retention_of_the_original_go_on(rig: Rig) -> None:
    rig.policies["*"] = {"keep_last": 1}
    vm = rig.host().make_vm("web01")
    back_up(rig)
    (held,) = there(rig)
    place(rig, held)
    for _ in range(2):
        vm.start()
        vm.stop()
        assert back_up(rig) == ["web01"]
    assert len(there(rig)) == 2
    assert there(rig)[0] == held
    assert rig.record("web01").status == State.CLEAN
    (mine,) = copy_hold.of(rig.site("beta"))
    copy_hold.end(rig.site("beta"), mine)
    vm.start()
    vm.stop()
    back_up(rig)
    assert held not in there(rig)


def test_a_host_that_is_silent_for_ever_keeps_its_hold(rig: Rig) -> None:
    old, _ = two_copies(rig)
    place(rig, old)
    contents = rig.site().database.head().contents
    dead = [Dead(row, "silent") for row in contents.sessions.values() if row.node == "beta"]
    recovery.expire(rig.site().database, dead, "test")
    for _ in range(2):
        assert database.run(rig.site()).failed == []
    assert stands(rig) == ([old], [old])


def test_a_reading_a_rehearsal_and_damage_leave_the_mark(rig: Rig) -> None:
    old, new = two_copies(rig)
    place(rig, new)
    with rig.site().database.session("verify") as session:
        found = verification.verify_copy(rig.site(), session, "web01", new)
    assert found is not None
    assert not found.problem
    side = sidecar_files.read(rig.nas / "web01", new)
    assert [hold.title for hold in side.holds] == [TITLE]
    assert side.verified is not None
    assert stands(rig) == ([new], [new])
    assert old in there(rig)


@pytest.mark.parametrize("left", ["sidecar and record", "sidecar", "record"])
def test_a_database_that_is_made_anew_knows_it(rig: Rig, left: str) -> None:
    old, _ = two_copies(rig)
    place(rig, old)
    side = sidecar_files.read(rig.nas / "web01", old)
    if left == "record":
        (rig.nas / "web01" / f"{old}.json").write_bytes(replace(side, holds=()).render())
    configuration, clock = rig.site().configuration, SystemClock()
    if left == "sidecar":
        shutil.rmtree(rig.nas / "vmstate")
    else:  # of the lost one something can be read
        for path in (rig.nas / "vmstate" / "gen").iterdir():
            path.chmod(0o640)
            path.write_bytes(path.read_bytes()[:-70])
    identity = HostIdentity.of_this_machine("alpha", configuration.host.state_directory)
    planned = rebuilding.plan(configuration, clock, 2.0)
    rebuilding.carry_out(configuration, clock, planned, identity)
    assert stands(rig)[0] == [old]
    assert rig.record("web01").holds == side.holds
    with rig.site().database.session("prune") as session:
        pruning.prune(rig.site(), session, "web01")
    assert database.run(rig.site()).failed == []
    assert stands(rig) == ([old], [old])


def test_workers_of_any_host_mark_what_was_held_while_somebody_worked(rig: Rig) -> None:
    old, _ = two_copies(rig)
    hold = Hold(old, "beta", "web-now", "2026-11-22T20:38:00Z", INDEX)
    rig.site().database.commit_once(
        lambda contents: rules.place(contents, "web01", hold), "test", "test"
    )
    assert stands(rig) == ([old], [])
    assert database.run(rig.site()).failed == []
    assert stands(rig) == ([old], [old])
    generation = rig.site().database.head().generation
    database.run(rig.site())
    assert rig.site().database.head().generation == generation, "nothing is left to be done"
