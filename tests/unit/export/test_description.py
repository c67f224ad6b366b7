"""The description that VirtualBox writes, and the export that comes to nothing for it."""

import html
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shared.export import description
from shared.export.description import Description, take_description
from shared.host.errors import VBoxManageError
from shared.host.stages import CancelledError
from shared.ova.ovf import Attachment, DescribedDisk, disk_files, rename_files
from shared.virtualbox.export_errors import ExportError, VmRunsError
from shared.virtualbox.export_words import ExportedAs
from tests.unit.export.conftest import FakeVirtualBox, ovf


def take(
    virtualbox: FakeVirtualBox, scratch: Path, called: str = "vm", *, disks: int = 1, **more: Any
) -> Description:
    more = {"cancelled": threading.Event(), **more}
    return take_description(
        virtualbox.vboxmanage, virtualbox.uuid, called, disks=disks, scratch=scratch, **more
    )


@pytest.fixture
def scratch(virtualbox: FakeVirtualBox, tmp_path: Path) -> Path:
    (virtualbox.folder / "vm.ovf").write_bytes(ovf([2**21]))
    return tmp_path / "scratch"


@pytest.mark.broad
def test_takes_the_members_before_the_first_disk(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    (virtualbox.folder / "vm.nvram").write_bytes(b"efi" * 1000)
    (virtualbox.folder / "vm.ovf").write_bytes(ovf([2**21], nvram=True))
    description = take(virtualbox, scratch)
    assert [name for name, _ in description.members] == ["vm.ovf", "vm.nvram"]
    assert description.ovf == (virtualbox.folder / "vm.ovf").read_bytes()
    assert description.members[1][1] == b"efi" * 1000
    assert list(scratch.iterdir()) == []


def test_a_vm_without_disks_is_exported_whole(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    virtualbox.behave(diskless=True)
    assert [name for name, _ in take(virtualbox, scratch, disks=0).members] == ["vm.ovf"]
    assert list(scratch.iterdir()) == []


def test_an_export_that_found_no_name_taken_is_refused(
    virtualbox: FakeVirtualBox, scratch: Path
) -> None:
    """Its disks are where nobody looks."""
    virtualbox.behave(diskless=True)
    with pytest.raises(ExportError, match="under other names"):
        take(virtualbox, scratch, disks=1)


@pytest.mark.broad
@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("web01", "web01"),
        ("Büro & Co", "B_ro_Co"),
        ("../../x", "x"),
        ("-rf", "rf"),
        ("日本", "machine"),
        ("a" * 200, "a" * 60),
    ],
)
def test_names_are_made_plain(
    virtualbox: FakeVirtualBox, scratch: Path, name: str, plain: str
) -> None:
    assert take(virtualbox, scratch, shown=ExportedAs(name)).name == plain


@pytest.mark.parametrize("missing", ["vm.nvram", "vm.ovf"])
@pytest.mark.slow
def test_what_is_missing_is_asked_for_again_but_not_for_ever(
    virtualbox: FakeVirtualBox, scratch: Path, missing: str
) -> None:
    """VirtualBox may have removed it before it could be opened."""
    (virtualbox.folder / "vm.nvram").write_bytes(b"efi")
    (virtualbox.folder / "vm.ovf").write_bytes(ovf([2**21], nvram=True))
    (virtualbox.folder / missing).unlink()
    with pytest.raises(ExportError, match="removes it too soon"):
        take(virtualbox, scratch)
    assert virtualbox.commands() == ["export"] * description.ATTEMPTS
    assert list(scratch.iterdir()) == []


@pytest.mark.broad
def test_a_refusal_is_told_in_virtualbox_s_words(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    virtualbox.behave(
        errors={
            "export": "0%...VBoxManage: error: Medium 'x' is locked for writing by another task\n"
        }
    )
    with pytest.raises(VmRunsError, match="locked for writing"):
        take(virtualbox, scratch)
    assert list(scratch.iterdir()) == []


def test_a_virtualbox_that_writes_nothing_is_not_waited_for(
    virtualbox: FakeVirtualBox, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(description, "START_SECONDS", 0.5)
    virtualbox.behave(mute=True)
    with pytest.raises(ExportError, match="does not describe the VM"):
        take(virtualbox, scratch)
    assert list(scratch.iterdir()) == []


@pytest.mark.broad
@pytest.mark.parametrize(
    "called", ["a/b", "../../x", "/etc/x", "a/../../b", "e//f", "g/", "a:b", "new\nline", "'"]
)
def test_the_disks_of_every_name_find_something_in_their_place(
    virtualbox: FakeVirtualBox, scratch: Path, called: str
) -> None:
    """Whatever the name leads to is below the directory that was made for the export."""
    virtualbox.behave(
        called=called.lstrip("/")
    )  # VirtualBox takes names that begin with a slash as relative, too
    before = sorted(scratch.parent.rglob("*"))
    assert take(virtualbox, scratch, called=called).ovf
    assert sorted(scratch.parent.rglob("*")) == sorted(
        [*before, scratch, *(virtualbox.folder / name for name in ("log",))]
    )


@pytest.mark.broad
def test_a_vm_that_is_called_otherwise_is_noticed_at_once(
    virtualbox: FakeVirtualBox, scratch: Path
) -> None:
    """Else VirtualBox would fill the local disk with the whole VM."""
    virtualbox.behave(called="renamed")
    start = time.monotonic()
    with pytest.raises(ExportError, match="was the VM renamed a moment ago"):
        take(virtualbox, scratch)
    assert time.monotonic() - start < 5
    assert list(scratch.iterdir()) == []


def test_a_name_for_which_there_can_be_no_file_is_told(
    virtualbox: FakeVirtualBox, scratch: Path
) -> None:
    with pytest.raises(ExportError, match="cannot be given names"):
        take(virtualbox, scratch, called="x" * 300)
    assert list(scratch.iterdir()) == []


@pytest.mark.broad
def test_cancelling_ends_it_soon(virtualbox: FakeVirtualBox, scratch: Path) -> None:
    virtualbox.behave(mute=True)
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        take(virtualbox, scratch, cancelled=cancelled)
    assert time.monotonic() - start < 2
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["web01", "a: b", "a (b) = c", "B&#xFC;ro &amp; &quot;x&quot; &lt;y&gt;", "../../x", "a/b"],
)
def test_files_get_plain_names(name: str) -> None:
    """VirtualBox does not import a manifest with a colon or a parenthesis in a file's name."""
    text = ovf([100, 200], nvram=True).replace(b'ovf:href="vm', b'ovf:href="' + name.encode())
    renamed, names = rename_files(text, "plain")
    shown = html.unescape(name)
    assert names == {
        f"{shown}-disk001.vmdk": "plain-disk001.vmdk",
        f"{shown}-disk002.vmdk": "plain-disk002.vmdk",
        f"{shown}.nvram": "plain.nvram",
    }
    assert renamed == text.replace(b'ovf:href="' + name.encode(), b'ovf:href="plain')
    assert [file.name for file in disk_files(renamed)] == [
        "plain-disk001.vmdk",
        "plain-disk002.vmdk",
    ]


@pytest.mark.broad
def test_what_a_killed_worker_left_long_ago_is_removed(
    virtualbox: FakeVirtualBox, scratch: Path
) -> None:
    for name, age in (("old", 7200), ("fresh", 60)):
        left = scratch / f"vmbackup-description-{name}"
        left.mkdir(parents=True)
        (left / "x.ova").touch()
        os.utime(left, (time.time() - age, time.time() - age))
    (scratch / "something else").mkdir()
    os.utime(scratch / "something else", (1, 1))
    take(virtualbox, scratch)
    assert sorted(path.name for path in scratch.iterdir()) == [
        "something else",
        "vmbackup-description-fresh",
    ]


def test_disks_are_found_by_their_place() -> None:
    assert disk_files(ovf([100, 200])) == (
        DescribedDisk("vm-disk001.vmdk", 100, Attachment("SATA", 0, 0)),
        DescribedDisk("vm-disk002.vmdk", 200, Attachment("SATA", 2, 0)),
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
