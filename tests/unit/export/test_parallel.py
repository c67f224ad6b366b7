"""Whole exports with a stand-in for VirtualBox.

What a backup worker sees, also when things go wrong in the middle.
"""

import hashlib
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.export.parallel import ParallelExporter
from shared.host.clock import SystemClock
from shared.ova.compression import Codec, zlib_codec
from shared.virtualbox.export_errors import (
    ExportCanceledError,
    ExportError,
    ExportTargetError,
    VmRunsError,
)
from tests.support.disk_files import Vdi, VmdkReader, content, pattern
from tests.support.waiting import ended
from tests.unit.export.conftest import FakeVirtualBox

BLOCK = 65536
Hook = Callable[[], None]


@pytest.fixture
def disks(virtualbox: FakeVirtualBox) -> list[list[Vdi]]:
    """A chain of two, and a disk of its own."""
    base = Vdi(64 * BLOCK, {number: pattern(number, BLOCK) for number in range(30)})
    virtualbox.add_disk(base.child({2: pattern(99, BLOCK)}), base)
    virtualbox.add_disk(Vdi(40 * BLOCK, {7: pattern(7, BLOCK)}))
    return virtualbox.chains


def exporter(
    virtualbox: FakeVirtualBox, tmp_path: Path, codec: Codec | None = None
) -> ParallelExporter:
    return ParallelExporter(
        virtualbox.vboxmanage, SystemClock(), scratch=tmp_path / "scratch", cores=2, codec=codec
    )


def in_the_middle(action: Hook) -> Codec:
    """A codec that does something once, when a few grains are compressed, and takes its time
    afterwards.
    """
    right, count = zlib_codec(1), [0]

    def compress(data: bytes) -> bytes:
        count[0] += 1
        if count[0] == 5:
            action()
        time.sleep(0.02 if count[0] > 5 else 0)
        return right.compress(data)

    return Codec("watched", compress, right.decompress)


@pytest.mark.broad
def test_an_export_has_the_description_the_disks_and_a_manifest(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    (virtualbox.folder / "vm.nvram").write_bytes(b"efi" * 100)
    target = tmp_path / ".x.partial.ova"
    export = ended(exporter(virtualbox, tmp_path).start(virtualbox.machine, target))
    export.result()
    with tarfile.open(target) as tar:
        contents = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert list(contents) == ["vm.ovf", "vm.nvram", "vm-disk001.vmdk", "vm-disk002.vmdk", "vm.mf"]
    for chain, name in zip(disks, ["vm-disk001.vmdk", "vm-disk002.vmdk"], strict=True):
        assert VmdkReader(contents[name]).disk(chain[0].size) == content(chain)
    manifest = [
        f"SHA256 ({name}) = {hashlib.sha256(data).hexdigest()}"
        for name, data in contents.items()
        if name != "vm.mf"
    ]
    assert contents["vm.mf"].decode().splitlines() == manifest
    summary = export.summary()
    assert (summary.size, export.size(), export.progress()) == (
        target.stat().st_size,
        target.stat().st_size,
        100,
    )
    assert [(member.name, member.size) for member in summary.members] == [
        (name, len(data)) for name, data in contents.items()
    ]
    assert summary.source_bytes == 31 * BLOCK
    assert virtualbox.commands() == ["mediumio", "mediumio", "showvminfo", "export"], (
        "locks, then the state, then the description"
    )
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.broad
def test_a_vm_without_disks(virtualbox: FakeVirtualBox, tmp_path: Path) -> None:
    virtualbox.behave(diskless=True)
    ended(exporter(virtualbox, tmp_path).start(virtualbox.machine, tmp_path / "x.ova")).result()
    with tarfile.open(tmp_path / "x.ova") as tar:
        assert tar.getnames() == ["vm.ovf", "vm.mf"]


@pytest.mark.broad
def test_a_vm_that_runs_once_it_is_locked_is_not_exported(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    virtualbox.behave(state_when_locked="running")
    export = ended(exporter(virtualbox, tmp_path).start(virtualbox.machine, tmp_path / "x.ova"))
    with pytest.raises(VmRunsError, match="running"):
        export.result()
    assert not (tmp_path / "x.ova").exists()
    assert "export" not in virtualbox.commands()


@pytest.mark.broad
def test_a_lost_lock_voids_the_copy(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    virtualbox.behave(lost=True)
    export = ended(exporter(virtualbox, tmp_path).start(virtualbox.machine, tmp_path / "x.ova"))
    with pytest.raises(ExportError, match="was lost while it was read"):
        export.result()
    assert not (tmp_path / "x.ova").exists()


@pytest.mark.broad
def test_a_killed_holder_stops_the_export_at_once(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    def kill() -> None:
        os.kill(virtualbox.processes("mediumio")[0].pid, signal.SIGKILL)

    export = ended(
        exporter(virtualbox, tmp_path, in_the_middle(kill)).start(
            virtualbox.machine, tmp_path / "x.ova"
        )
    )
    with pytest.raises(ExportError, match="was lost"):
        export.result()
    assert export.progress() < 100
    assert not (tmp_path / "x.ova").exists()


@pytest.mark.broad
def test_a_disk_that_is_written_meanwhile_voids_the_copy(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    base = virtualbox.folder / f"{disks[0][1].identifier}.vdi"

    def write() -> None:
        with base.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")

    export = ended(
        exporter(virtualbox, tmp_path, in_the_middle(write)).start(
            virtualbox.machine, tmp_path / "x.ova"
        )
    )
    with pytest.raises(ExportError, match="was changed while it was read"):
        export.result()
    assert not (tmp_path / "x.ova").exists()


@pytest.mark.broad
def test_cancelling_removes_the_file_and_frees_the_disks(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    reached = threading.Event()
    export = exporter(virtualbox, tmp_path, in_the_middle(reached.set)).start(
        virtualbox.machine, tmp_path / "x.ova"
    )
    assert reached.wait(10)
    with pytest.raises(ExportError, match="still runs"):
        export.result()
    start = time.monotonic()
    assert export.cancel(5) is True
    assert time.monotonic() - start < 1
    with pytest.raises(ExportCanceledError):
        export.result()
    assert not (tmp_path / "x.ova").exists()
    assert virtualbox.processes() == []


@pytest.mark.broad
def test_a_target_that_is_there_already_is_left_alone(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    (tmp_path / "x.ova").write_text("precious")
    export = ended(exporter(virtualbox, tmp_path).start(virtualbox.machine, tmp_path / "x.ova"))
    with pytest.raises(ExportTargetError, match="File exists"):
        export.result()
    assert (tmp_path / "x.ova").read_text() == "precious"


def test_an_ineligible_vm_is_refused_with_the_reason(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    (virtualbox.folder / f"{disks[1][0].identifier}.vdi").write_bytes(b"?" * 1000)
    parallel = exporter(virtualbox, tmp_path)
    assert "this is no VDI file" in parallel.refusal(virtualbox.machine)
    export = ended(parallel.start(virtualbox.machine, tmp_path / "x.ova"))
    with pytest.raises(ExportError, match="this is no VDI file"):
        export.result()
    assert virtualbox.commands() == []


@pytest.mark.slow
def test_disks_that_virtualbox_exports_otherwise_are_refused(
    virtualbox: FakeVirtualBox, disks: list[list[Vdi]], tmp_path: Path
) -> None:
    machine = virtualbox.machine
    text = (virtualbox.folder / "vm.ovf").read_bytes()
    (virtualbox.folder / "vm.ovf").write_bytes(text.replace(b'port="2"', b'port="3"'))
    export = ended(exporter(virtualbox, tmp_path).start(machine, tmp_path / "x.ova"))
    with pytest.raises(ExportError, match="not those that VirtualBox exports"):
        export.result()
    (virtualbox.folder / "vm.ovf").write_bytes(text.replace(str(40 * BLOCK).encode(), b"512"))
    export = ended(exporter(virtualbox, tmp_path).start(machine, tmp_path / "y.ova"))
    with pytest.raises(ExportError, match="which VirtualBox exports with 512"):
        export.result()
    (virtualbox.folder / "vm.ovf").write_bytes(text.replace(str(40 * BLOCK).encode(), b"0"))
    ended(exporter(virtualbox, tmp_path).start(machine, tmp_path / "z.ova")).result()


@pytest.mark.broad
def test_a_vm_of_another_name_in_the_copy(virtualbox: FakeVirtualBox, tmp_path: Path) -> None:
    virtualbox.behave(diskless=True)
    export = ended(
        exporter(virtualbox, tmp_path).start(
            virtualbox.machine, tmp_path / "x.ova", vm_name="web 01"
        )
    )
    assert export.summary().members[-1].name == "web_01.mf"
