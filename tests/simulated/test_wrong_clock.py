"""A clock that was once wrong.

Copies and notes that are dated 2038 silence neither backups nor verification, and are warned about.
"""

from dataclasses import replace

import pytest

from shared.copies import catalogue, sidecar_files
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import Verified
from shared.host.clock import TOLERANCE, SystemClock, age, parse_timestamp, timestamp
from shared.state.states import State
from tests.simulated.conftest import Rig
from tests.support.simulated import SimulatedVm
from worker import notifier, verify
from worker.backup import worker as backup

FUTURE = "2038-01-19T03:14:08Z"


def tick(rig: Rig) -> list[str]:
    """What a tick backs up of a host whose VMs are copied live every day."""
    site = rig.site(running="live", running_hours=24)
    notifier.run(site)
    return backup.run(site).done


@pytest.fixture
def running(rig: Rig) -> SimulatedVm:
    """A VM that runs, and was copied live when the clock was wrong."""
    vm = rig.host().make_vm("web01")
    rig.look()
    vm.start()
    assert tick(rig) == ["web01"]
    assert tick(rig) == []
    antedate(rig, "web01")
    return vm


def antedate(rig: Rig, key: str) -> str:
    """Writes 2038 wherever the last backup has written a time; the copy's stamp."""
    record = rig.record(key)
    assert record.last_copy is not None
    side = sidecar_files.read(rig.nas / key, record.last_copy.stamp)
    (rig.nas / key / f"{side.stamp}.json").write_bytes(
        replace(side, started=FUTURE, finished=FUTURE).render()
    )
    last = replace(record.last_copy, finished=FUTURE)
    store(rig, key, last_copy=last, verified=FUTURE, backed_up=FUTURE)
    return side.stamp


def store(rig: Rig, key: str, **values: object) -> None:
    rig.site().database.commit_once(
        lambda contents: contents.with_vm(replace(contents.vms[key], **values)), "test", "test"
    )  # type: ignore[arg-type]


def test_a_live_vm_whose_copy_is_dated_2038_is_backed_up_again_once(
    rig: Rig, running: SimulatedVm
) -> None:
    assert tick(rig) == ["web01"]
    assert [tick(rig) for _ in range(3)] == [[], [], []]


def test_it_is_not_backed_up_at_each_tick_even_if_the_copy_of_2038_goes_on_counting_as_the_last(
    rig: Rig, running: SimulatedVm
) -> None:
    future = rig.record("web01").last_copy
    assert tick(rig) == ["web01"]
    store(rig, "web01", last_copy=future)
    assert [tick(rig) for _ in range(3)] == [[], [], []]
    assert rig.record("web01").status is State.RUNNING


def test_a_copy_of_a_database_that_knows_no_other_time_is_due_as_before(
    rig: Rig, running: SimulatedVm
) -> None:
    record = rig.record("web01")
    assert record.last_copy is not None
    old = timestamp(SystemClock().now().replace(year=2020))
    store(rig, "web01", backed_up="", last_copy=replace(record.last_copy, finished=old))
    assert tick(rig) == ["web01"]
    assert tick(rig) == []


def read_again(rig: Rig, key: str) -> list[str]:
    """When its copies were last read in full."""
    found = [copy.sidecar for copy in catalogue.read(rig.nas / key, None).good if copy.sidecar]
    return [side.verified.time if side.verified else side.finished for side in found]


@pytest.mark.parametrize("noted", ["in the database", "beside the copy", "in both"])
def test_what_was_verified_in_2038_is_verified_again_once(rig: Rig, noted: str) -> None:
    rig.host().make_vm("web01")
    backup.run(rig.look())
    (copy,) = catalogue.read(rig.nas / "web01", None).good
    assert isinstance(copy.sidecar, Sidecar)
    if noted != "beside the copy":
        store(rig, "web01", verified=FUTURE)
    if noted != "in the database":
        marked = replace(copy.sidecar, verified=Verified(FUTURE, "good"))
        (rig.nas / "web01" / f"{copy.stamp}.json").write_bytes(marked.render())
        if noted == "beside the copy":
            store(rig, "web01", verified="2020-01-01T00:00:00Z")
    verify.run(rig.site())
    now = SystemClock().now()
    assert age(now, rig.record("web01").verified) is not None
    assert all(parse_timestamp(moment) < now + TOLERANCE for moment in read_again(rig, "web01"))
    before = rig.site().database.head().generation
    assert verify.run(rig.site()).done == []
    assert rig.site().database.head().generation == before


def test_a_vm_without_a_good_copy_is_not_looked_at_for_ever(rig: Rig) -> None:
    rig.host().make_vm("web01")
    backup.run(rig.look())
    antedate(rig, "web01")
    for path in (rig.nas / "web01").iterdir():
        path.unlink()
    verify.run(rig.site())
    before = rig.site().database.head().generation
    assert verify.plan(rig.site()) == []
    verify.run(rig.site())
    assert rig.site().database.head().generation == before
