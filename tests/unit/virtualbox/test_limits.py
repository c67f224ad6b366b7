"""How long VirtualBox may take: more for more memory, and for larger disks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.virtualbox.inventory import Machine
from shared.virtualbox.live_clone import Clones
from shared.virtualbox.power import PowerSwitch
from shared.virtualbox.storage import Image, VmSnapshot
from shared.virtualbox.vboxmanage import VBoxManage
from tests.unit.virtualbox.fakes import DISK, A, B, FakeRunner

QUERY_SECONDS = 7
GIBIBYTE = 2**30


def info(state: str, memory: int = 0) -> tuple[int, str, str]:
    said = f'name="web01"\nUUID="{A}"\nVMState="{state}"\nmemory={memory >> 20}\n'
    return 0, said, ""


def limit(words: tuple[str, ...], memory: int, act: Callable[[VBoxManage], object]) -> float:
    """The limit of a command, of a VM that is running, then does what is asked."""
    after = {"startvm": "running", "controlvm": "saved"}.get(words[0], "running")
    looks = [info("running", memory), info(after, memory)]
    runner = FakeRunner({("showvminfo", A, "--machinereadable"): looks, words: [(0, "", "")]})
    act(VBoxManage("VBoxManage", runner, QUERY_SECONDS))
    return runner.limits[runner.calls.index(words)]


@pytest.mark.parametrize(
    ("words", "act"),
    [
        (("controlvm", A, "savestate"), lambda box: PowerSwitch(box, SystemClock()).save(A)),
        (("startvm", A, "--type=headless"), lambda box: PowerSwitch(box, SystemClock()).start(A)),
    ],
    ids=["savestate", "start"],
)
def test_a_vm_with_more_memory_may_take_longer(
    words: tuple[str, ...], act: Callable[[VBoxManage], object]
) -> None:
    small, large = (limit(words, count * GIBIBYTE, act) for count in (1, 256))
    assert QUERY_SECONDS < small < large
    assert large - small > 255 * GIBIBYTE / (20 * 2**20)


def test_merging_a_larger_snapshot_may_take_longer(tmp_path: Path) -> None:
    words = ("snapshot", A, "delete", B)
    limits = []
    for count in (1, 2**40):
        path = tmp_path / "disk.vdi"
        with path.open("wb") as file:
            file.truncate(count)
        machine = Machine(A, "web01", "web01.vbox", chains=((Image(DISK, str(path), "VDI", ""),),))
        limits.append(
            limit(
                words,
                0,
                lambda box, machine=machine: Clones(box, SystemClock()).merge(
                    machine, VmSnapshot(B, "", "", ())
                ),
            )
        )
    assert QUERY_SECONDS < limits[0] < limits[1]


def test_memory_is_read_as_virtualbox_says_it() -> None:
    runner = FakeRunner({("showvminfo", A, "--machinereadable"): [info("running", GIBIBYTE)]})
    assert VBoxManage("VBoxManage", runner, 1).info(A).memory == GIBIBYTE
