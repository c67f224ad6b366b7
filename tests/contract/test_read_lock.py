"""`mediumio cat` that nobody reads.

It holds the read lock of the disk, and nobody else waits for it.
"""

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.hosts import VirtualBoxHost, VirtualMachine
from tests.support.waiting import wait_for


@pytest.fixture
def holder(host: VirtualBoxHost, vm: VirtualMachine) -> Iterator["subprocess.Popen[bytes]"]:
    """Writes the disk into a pipe that is full soon."""
    process = subprocess.Popen(
        [host.vboxmanage, "mediumio", f"--disk={vm.disk}", "cat"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: state(host, vm) == "locked read", "the lock")
    with process:
        yield process
        process.kill()


def state(host: VirtualBoxHost, vm: VirtualMachine) -> str:
    lines = host.run("showmediuminfo", "disk", vm.disk).stdout.splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("State:"))


def test_it_keeps_the_vm_from_starting_and_nobody_waiting(
    host: VirtualBoxHost, vm: VirtualMachine, holder: "subprocess.Popen[bytes]"
) -> None:
    assert vm.info("VMState") == "poweroff"
    done = host.run("startvm", vm.uuid, "--type=headless", check=False)
    assert done.returncode == 1
    assert "Locking of attached media failed" in done.stderr
    assert holder.poll() is None


def test_killed_it_holds_nothing(
    host: VirtualBoxHost, vm: VirtualMachine, holder: "subprocess.Popen[bytes]"
) -> None:
    holder.kill()
    wait_for(lambda: state(host, vm) == "created", "the disk to be free")


def test_read_to_the_end_it_gives_the_disk(
    host: VirtualBoxHost, vm: VirtualMachine, holder: "subprocess.Popen[bytes]"
) -> None:
    data = holder.communicate(timeout=60)[0]
    assert len(data) == 8 << 20
    assert data[63 * 512 : 63 * 512 + 2] in (b"TC", b"\0\0")
    assert holder.returncode == 0
    wait_for(lambda: state(host, vm) == "created", "the disk to be free")
