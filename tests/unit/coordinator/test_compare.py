"""`vmbackup-admin compare`."""

import json

import pytest

from shared.state.states import State
from tests.support.copies import ova, put_copy, vmdk
from tests.unit.coordinator.conftest import Operator, copy

OLD, NEW = "20261121T203800Z-9", "20261122T203800Z-17"
GRAIN = 65536


@pytest.fixture
def operator(site_with_database: Operator) -> Operator:
    """A NAS with a CLEAN VM that has two copies without an index."""
    made = site_with_database
    made.add_vms("web01")
    grains = {number: bytes([number + 1]) * GRAIN for number in range(5)}
    put_copy(made.nas / "web01", OLD, ova(vmdk(grains)))
    put_copy(made.nas / "web01", NEW, ova(vmdk({**grains, 1: b"x" * GRAIN, 9: b"y" * GRAIN})))
    made.set("web01", status=State.CLEAN, last_copy=copy(NEW), verified="2026-11-22T20:38:00Z")
    return made


def test_copies_without_an_index_are_read_and_that_is_said(operator: Operator) -> None:
    result = operator.admin("compare", "web01", "previous", "latest")
    assert result.exit_code == 0
    assert f"between {OLD} and {NEW}: 2 blocks differ" in result.stdout
    assert "both copies are read, which takes about" in result.stderr
    assert f"{OLD}.ova: there is no index of it" in result.stderr


def test_for_programs(operator: Operator) -> None:
    told = json.loads(operator.admin("compare", "web01", OLD, NEW, "--json").stdout)
    assert (told["before"], told["after"]) == (OLD, NEW)
    assert "index" in told["read_because"]
    (disk,) = told["disks"]
    assert (disk["changed"], disk["appeared"], disk["vanished"]) == (1, 1, 0)
    assert disk["bytes"] == 2 * GRAIN


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("nobody", OLD, NEW), 2, "nobody"),
        (("web01", OLD, "20261122T203800Z-99"), 2, "has no copy"),
        (("web01", OLD), 2, "STAMP"),
    ],
)
def test_what_is_not_there(
    operator: Operator, arguments: tuple[str, ...], code: int, why: str
) -> None:
    result = operator.admin("compare", *arguments)
    assert result.exit_code == code, result.stderr
    assert why in result.stderr


def test_a_damaged_copy_is_said_to_be_one(operator: Operator) -> None:
    path = operator.nas / "web01" / f"{NEW}.ova"
    data = bytearray(path.read_bytes())
    data[data.index(b"KDMV") + 128 * 512 + 20] ^= 1
    path.write_bytes(data)
    result = operator.admin("compare", "web01", OLD, NEW)
    assert result.exit_code == 1
    assert "is damaged at byte" in result.stderr
    path.unlink()
    assert operator.admin("compare", "web01", OLD, NEW).exit_code == 2


def test_where_no_disk_can_be_read_nothing_is_said_to_be_equal(operator: Operator) -> None:
    path = operator.nas / "web01" / f"{NEW}.ova"
    path.write_bytes(path.read_bytes().replace(b"KDMV", b"none", 1))
    result = operator.admin("compare", "web01", OLD, NEW)
    assert result.exit_code == 3, result.stderr
    assert f"between {OLD} and {NEW}: no disk could be compared" in result.stdout
