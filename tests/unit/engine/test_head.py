"""The description that VirtualBox writes, and the export that is cancelled for it."""

import html
import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from shared.engine import child, head
from shared.engine.head import Description, take_description
from shared.engine.ovf import DiskFile, Slot, disk_files, rename_files
from shared.engine.stages import CancelledError
from shared.errors import VBoxManageError
from shared.virtualbox.problems import ExportError, VmRunsError
from tests.unit.engine.conftest import FakeVirtualBox, ovf


def take(virtualbox: FakeVirtualBox, scratch: Path, name: str = "vm", cancelled: threading.Event | None = None) -> Description:
    return take_description(virtualbox.vboxmanage, virtualbox.uuid, scratch=scratch, name=name, cancelled=cancelled or threading.Event())


@pytest.fixture
def scratch(virtualbox: FakeVirtualBox, tmp_path: Path) -> Path:
    (virtualbox.folder / "vm.ovf").write_bytes(ovf([2**21]))
    return tmp_path / "scratch"


def test_takes_the_members_before_the_first_disk(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    (virtualbox.folder / "vm.nvram").write_bytes(b"efi" * 1000)
    description = take(virtualbox, scratch)
    assert [name for name, _ in description.members] == ["vm.ovf", "vm.nvram"]
    assert description.ovf == (virtualbox.folder / "vm.ovf").read_bytes()
    assert description.members[1][1] == b"efi" * 1000
    assert list(scratch.iterdir()) == []


def test_a_vm_without_disks_may_finish_before_it_is_cancelled(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    virtualbox.behave(diskless=True)
    assert [name for name, _ in take(virtualbox, scratch).members] == ["vm.ovf"]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "plain"),
    [("web01", "web01"), ("Büro & Co", "B_ro_Co"), ("../../x", "x"), ("-rf", "rf"), ("日本", "machine"), ("a" * 200, "a" * 60)],
)
def test_names_are_made_plain(virtualbox: FakeVirtualBox, scratch: Path, name: str, plain: str) -> None:
    assert take(virtualbox, scratch, name).name == plain


def test_a_refusal_is_told_in_virtualbox_s_words(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    virtualbox.behave(errors={"export": "0%...VBoxManage: error: Medium 'x' is locked for writing by another task\n"})
    with pytest.raises(VmRunsError, match="locked for writing"):
        take(virtualbox, scratch)
    assert list(scratch.iterdir()) == []


def test_a_virtualbox_that_writes_nothing_is_not_waited_for(
    virtualbox: FakeVirtualBox, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "START_SECONDS", 0.5)
    virtualbox.behave(mute=True)
    with pytest.raises(ExportError, match="does not describe the VM"):
        take(virtualbox, scratch)
    assert list(scratch.iterdir()) == []


def test_an_export_without_a_description_is_refused(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    (virtualbox.folder / "vm.ovf").unlink()
    with pytest.raises(ExportError, match="without a description"):
        take(virtualbox, scratch)


def test_an_export_is_cancelled_only_when_it_can_be(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    """VBoxManage handles signals a little later than VirtualBox has begun: killed before that, it would leave VirtualBox exporting."""
    virtualbox.behave(late=0.5)
    take(virtualbox, scratch)
    assert (virtualbox.folder / "canceled").exists()


def test_an_export_that_was_killed_instead_is_told(virtualbox: FakeVirtualBox, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_GUARD", child._GUARD.replace("-ge 500", "-ge 5"))
    virtualbox.behave(late=30.0)
    with pytest.raises(ExportError, match="may go on"):
        take(virtualbox, scratch)


def test_an_export_that_was_done_before_it_could_be_cancelled_is_no_failure(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    virtualbox.behave(done=True)
    assert take(virtualbox, scratch).ovf
    assert not (virtualbox.folder / "canceled").exists()


def test_an_export_that_does_not_obey_is_never_killed(virtualbox: FakeVirtualBox, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, VBoxManage would leave VirtualBox exporting; so it is left alone, and the file is gone."""
    monkeypatch.setattr(head, "END_SECONDS", 0.5)
    monkeypatch.setattr(child, "END_SECONDS", 0.5)
    virtualbox.behave(stubborn=True)
    with pytest.raises(ExportError, match="does not cancel"):
        take(virtualbox, scratch)
    left = [process for process in virtualbox.processes() if "export" in process.cmdline()]
    assert [process.status() for process in left if "sh" not in process.name()] == [psutil.STATUS_SLEEPING]
    assert list(scratch.iterdir()) == []
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5)


def test_cancelling_ends_it_soon(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    virtualbox.behave(mute=True)
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        take(virtualbox, scratch, cancelled=cancelled)
    assert time.monotonic() - start < 2
    assert list(scratch.iterdir()) == []


def test_a_killed_worker_s_export_is_cancelled_too(virtualbox: FakeVirtualBox, scratch: Path, tmp_path: Path) -> None:
    """Else VirtualBox would go on and fill the local disk with the whole VM."""
    target = tmp_path / "x.ova"
    worker = virtualbox.worker(
        "import os\nfrom shared.engine.child import Child\n"
        f"child = Child(vboxmanage, ['export', 'vm', '--output', {str(target)!r}], guarded=True)\n"
        f"while not (os.path.exists({str(target)!r}) and os.path.getsize({str(target)!r}) > 2000): time.sleep(0.01)"
    )
    running = virtualbox.processes()
    assert any("export" in process.cmdline() for process in running)
    worker.kill()
    worker.wait(5)
    assert psutil.wait_procs(running, timeout=5)[1] == []
    assert not target.exists()


@pytest.mark.parametrize("name", ["web01", "a: b", "a (b) = c", "B&#xFC;ro &amp; &quot;x&quot; &lt;y&gt;", "../../x", "a/b"])
def test_files_get_plain_names(name: str) -> None:
    """VirtualBox does not import a manifest with a colon or a parenthesis in a file's name."""
    text = ovf([100, 200]).replace(b'ovf:href="vm', b'ovf:href="' + name.encode())
    renamed, names = rename_files(text, "plain")
    shown = html.unescape(name)
    assert names == {
        f"{shown}-disk001.vmdk": "plain-disk001.vmdk",
        f"{shown}-disk002.vmdk": "plain-disk002.vmdk",
        f"{shown}.nvram": "plain.nvram",
    }
    assert renamed == text.replace(b'ovf:href="' + name.encode(), b'ovf:href="plain')
    assert [file.name for file in disk_files(renamed)] == ["plain-disk001.vmdk", "plain-disk002.vmdk"]


def test_what_a_killed_worker_left_long_ago_is_removed(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    for name, age in (("old", 7200), ("fresh", 60)):
        left = scratch / f"vmbackup-description-{name}"
        left.mkdir(parents=True)
        (left / "x.ova").touch()
        os.utime(left, (time.time() - age, time.time() - age))
    (scratch / "something else").mkdir()
    os.utime(scratch / "something else", (1, 1))
    take(virtualbox, scratch)
    assert sorted(path.name for path in scratch.iterdir()) == ["something else", "vmbackup-description-fresh"]


def test_disks_are_found_by_their_place() -> None:
    assert disk_files(ovf([100, 200])) == (
        DiskFile("vm-disk001.vmdk", 100, Slot("SATA", 0, 0)),
        DiskFile("vm-disk002.vmdk", 200, Slot("SATA", 2, 0)),
    )
    assert disk_files(ovf([])) == ()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace(b'ovf:fileRef="file0"', b'ovf:fileRef="file7"'),
        lambda text: text.replace(b'vbox:uuid="', b'vbox:uuid="0'),
        lambda text: text.replace(b'ovf:capacity="100"', b'ovf:capacity="1e2"'),
    ],
    ids=["cut off", "no such file", "other uuid", "no number"],
)
def test_a_description_that_does_not_add_up_is_refused(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(VBoxManageError, match="not understood"):
        disk_files(damage(ovf([100])))
