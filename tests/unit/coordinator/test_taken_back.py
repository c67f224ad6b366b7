"""A VM that was taken back in place: its disks of before are told of until they are removed."""

from dataclasses import replace

import pytest

from coordinator.doctor import unfinished
from shared.tasks.swap_note import Swap, SwapNote, SwappedDisk
from tests.unit.coordinator.conftest import WHEN, Operator, uuid

STAMP = "20261122T203800Z-17"


@pytest.fixture
def swap(site_with_database: Operator) -> Swap:
    """A VM of which one old disk of two is there yet."""
    operator = site_with_database
    operator.add_vms("web 01")
    old = operator.folder / "disk.vdi.vmbackup-old"
    old.write_bytes(b"x" * 70_000)
    gone = str(operator.folder / "gone.vdi")
    disks = (
        SwappedDisk(str(operator.folder / "disk.vdi"), f"{old}.new", str(old), 1, 2),
        SwappedDisk(gone, f"{gone}.new", f"{gone}.old", 3, 4),
    )
    made = Swap(uuid(0), "web 01", STAMP, disks, WHEN)
    write(operator, made)
    return made


def write(operator: Operator, swap: Swap) -> None:
    state = operator.configuration.host.state_directory
    state.mkdir(exist_ok=True)
    SwapNote.of(state, swap.uuid).write(swap)


def test_status_and_doctor_say_what_they_take_and_how_they_go(
    site_with_database: Operator, swap: Swap
) -> None:
    (row,) = site_with_database.json("status")["taken_back"]
    assert (row["vm"], row["stamp"], row["done"]) == ("web 01", STAMP, WHEN)
    assert row["disks"] == [swap.disks[0].old]
    assert 70_000 <= row["size"] <= 140_000
    said = site_with_database.admin("status").stdout
    assert f"web 01 was taken back to {STAMP} at {WHEN}, and its disks of before take" in said
    assert "`vmbackup-admin restore --into --finish 'web 01'` removes them" in said
    (check,) = unfinished.examine(site_with_database.configuration)
    assert (check.verdict, "its disks of before take" in check.seen) == ("warn", True)
    assert f"restore --into --finish {swap.uuid}" in check.hint


def test_one_that_is_not_done_is_settled_by_itself(
    site_with_database: Operator, swap: Swap
) -> None:
    write(site_with_database, replace(swap, done=""))
    said = site_with_database.admin("status").stdout
    assert f"web 01 is being taken back to {STAMP}, or that was broken off" in said
    assert "--finish" not in said


def test_a_note_that_cannot_be_read_is_told_of(site_with_database: Operator, swap: Swap) -> None:
    state = site_with_database.configuration.host.state_directory
    SwapNote.of(state, swap.uuid).path.write_text("{", encoding="utf-8")
    assert "put the right ones in place by hand" in site_with_database.admin("status").stdout
    assert site_with_database.json("status")["taken_back"][0]["problem"]


def test_without_any_nothing_is_said(site_with_database: Operator) -> None:
    assert site_with_database.json("status")["taken_back"] == []
    assert list(unfinished.examine(site_with_database.configuration)) == []
