"""The read lock: taken before it counts, proven at the end, let go whatever happens."""

import os
import signal
import threading
import time
from uuid import uuid4

import psutil
import pytest

from shared.export.read_lock import ReadLock
from shared.host.errors import CopyError
from shared.host.stages import CancelledError
from shared.ova.disk import Chain
from shared.virtualbox.export_errors import ExportError, VmRunsError
from tests.support.disk_files import Vdi, pattern
from tests.unit.export.conftest import FakeVirtualBox

BLOCK = 65536
LOCKED = "VBoxManage: error: Medium 'x.vdi' is locked for writing by another task\n"


@pytest.fixture
def disk(virtualbox: FakeVirtualBox) -> Vdi:
    """A disk of 4 MiB whose first megabyte has data."""
    image = Vdi(64 * BLOCK, {number: pattern(number, BLOCK) for number in range(20)})
    virtualbox.add_disk(image)
    return image


def take(
    virtualbox: FakeVirtualBox,
    disk: Vdi,
    cancelled: threading.Event | None = None,
    **more: float,
) -> ReadLock:
    medium = str(disk.identifier)
    return ReadLock.take(virtualbox.vboxmanage, medium, cancelled or threading.Event(), **more)


def chain(virtualbox: FakeVirtualBox, disk: Vdi) -> Chain:
    return Chain.open([virtualbox.folder / f"{disk.identifier}.vdi"])


@pytest.mark.broad
def test_a_lock_that_lasted_is_proven(virtualbox: FakeVirtualBox, disk: Vdi) -> None:
    with chain(virtualbox, disk) as opened, take(virtualbox, disk) as lock:
        lock.check()
        assert len(virtualbox.processes()) == 1
        lock.prove(opened)
    assert virtualbox.processes() == []


@pytest.mark.broad
def test_a_vboxsvc_that_is_just_ending_is_waited_for(virtualbox: FakeVirtualBox, disk: Vdi) -> None:
    virtualbox.behave(ending=True)
    with take(virtualbox, disk) as lock:
        lock.check()
    assert virtualbox.commands() == ["mediumio", "list", "mediumio"]


def test_a_lock_that_virtualbox_gave_up_is_no_proof(virtualbox: FakeVirtualBox, disk: Vdi) -> None:
    """VBoxSVC killed: 128 KiB come, then an end with status 0."""
    virtualbox.behave(lost=True)
    with (
        chain(virtualbox, disk) as opened,
        take(virtualbox, disk) as lock,
        pytest.raises(CopyError, match="was lost"),
    ):
        lock.prove(opened)


def test_a_killed_holder_is_noticed(virtualbox: FakeVirtualBox, disk: Vdi) -> None:
    with chain(virtualbox, disk) as opened, take(virtualbox, disk) as lock:
        (process,) = virtualbox.processes()
        os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs([process], timeout=5)
        with pytest.raises(CopyError, match="was lost"):
            lock.check()
        with pytest.raises(CopyError, match="was lost"):
            lock.prove(opened)


def test_other_bytes_than_virtualbox_reads_are_no_proof(
    virtualbox: FakeVirtualBox, disk: Vdi
) -> None:
    raw = virtualbox.folder / f"{disk.identifier}.raw"
    data = bytearray(raw.read_bytes())
    data[2**20 - 1] ^= 1
    raw.write_bytes(data)
    with (
        chain(virtualbox, disk) as opened,
        take(virtualbox, disk) as lock,
        pytest.raises(CopyError, match="reads other bytes"),
    ):
        lock.prove(opened)


@pytest.mark.broad
def test_virtualbox_is_asked_for_bytes_of_a_parent_that_its_child_does_not_note(
    virtualbox: FakeVirtualBox,
) -> None:
    """Far behind the first megabyte, where nothing else is compared."""
    base = Vdi(64 * BLOCK, {number: pattern(number, BLOCK) for number in (20, 40, 50)})
    leaf = base.child({50: pattern(1, BLOCK)})
    base.modification = uuid4()
    virtualbox.add_disk(leaf, base)
    paths = [virtualbox.folder / f"{image.identifier}.vdi" for image in (leaf, base)]
    raw = virtualbox.folder / f"{leaf.identifier}.raw"
    with Chain.open(paths, lambda _child, _parent: True) as opened:
        assert [block.position for block in opened.witnesses()] == [40 * BLOCK]
        with take(virtualbox, leaf) as lock:
            lock.prove(opened)
        data = bytearray(raw.read_bytes())
        data[40 * BLOCK] ^= 1
        raw.write_bytes(data)
        with take(virtualbox, leaf) as lock, pytest.raises(CopyError, match="reads other bytes"):
            lock.prove(opened)
        raw.write_bytes(data[: 40 * BLOCK + 512])
        with take(virtualbox, leaf) as lock, pytest.raises(ExportError, match="does not read"):
            lock.prove(opened)


def test_a_running_vm_is_told_apart(virtualbox: FakeVirtualBox, disk: Vdi) -> None:
    virtualbox.behave(errors={"mediumio": LOCKED})
    with pytest.raises(VmRunsError, match="locked for writing"):
        take(virtualbox, disk)


@pytest.mark.broad
def test_a_virtualbox_that_does_not_answer_is_not_waited_for(
    virtualbox: FakeVirtualBox, disk: Vdi
) -> None:
    virtualbox.behave(mute=True)
    with pytest.raises(ExportError, match="does not lock"):
        take(virtualbox, disk, start_seconds=0.5)


def test_cancelling_while_waiting_for_the_lock(virtualbox: FakeVirtualBox, disk: Vdi) -> None:
    virtualbox.behave(mute=True)
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        take(virtualbox, disk, cancelled)
    assert time.monotonic() - start < 2


@pytest.mark.broad
def test_a_killed_worker_lets_the_lock_go(virtualbox: FakeVirtualBox, disk: Vdi) -> None:
    """Nobody can clean up after a SIGKILL: the pipe does it."""
    worker = virtualbox.worker(
        f"from shared.export.read_lock import ReadLock\nlock = ReadLock.take(vboxmanage, "
        f"{str(disk.identifier)!r}, threading.Event())"
    )
    held = virtualbox.processes()
    assert ["mediumio" in process.cmdline() for process in held] == [True]
    worker.kill()
    worker.wait(5)
    assert psutil.wait_procs(held, timeout=5)[1] == []
