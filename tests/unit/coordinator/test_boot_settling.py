"""A disk gets its name when it is whole and its VM is off; what is thrown away is only ours."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.booting import (
    boot_hold,
    going_on,
    keeping,
    locks,
    machine_making,
    machines,
    mounts,
    removing,
    settling,
)
from coordinator.booting.isolation import cabling, isolated, plugged_cards
from coordinator.commands import boot_work
from shared.host.errors import (
    ConfigurationError,
    CopyError,
    ExitCode,
    LockedError,
    NasError,
    UsageError,
    VBoxManageError,
)
from shared.host.host_lock import host_lock
from shared.host.process_identity import ProcessIdentity
from shared.host.processes import SubprocessRunner
from shared.serving import places
from shared.serving.places import MountedCopy
from shared.tasks import boot_mounts, boot_note
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.tasks.boot_progress import progress
from shared.virtualbox import scratch
from tests.support.copies import UUID as COPIED
from tests.support.copies import PowerCutError, ova, put_copy
from tests.support.waiting import wait_for

STAMP = "20261122T203800Z-17"
UUID = "11111111-2222-3333-4444-555555555555"


HOLDS = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""

#: That it was one that runs from a copy.
REMEMBERED = f"booted-{'a' * 32}.json"


class VirtualBox:
    """What is asked of VirtualBox: the VM is `state`; what it was told."""

    def __init__(self) -> None:
        self.state, self.session, self.listed = "poweroff", "", True
        #: Its disks by UUID.
        self.images = dict[str, Any]()
        self.told = list[tuple[str, ...]]()
        self.fails = False
        #: So many changes are refused, as somebody looks at the VM; what the last of them is.
        self.locked, self.meanwhile = 0, ""

    def info(self, _uuid: str) -> Any:
        off = self.state in ("poweroff", "aborted", "saved") and not self.session
        return SimpleNamespace(state=self.state, session=self.session, stopped=off, memory=1)

    def run(self, *words: str) -> str:
        return self.run_long(0, *words)

    def run_long(self, _seconds: float, *words: str) -> str:
        self.told.append(words)
        if self.locked:
            self.locked -= 1
            self.state = self.meanwhile or self.state
            raise VBoxManageError(f"The machine '{UUID}' is already locked by a session")
        if self.fails:
            raise VBoxManageError("no")
        return ""


def settings_of(own: str) -> str:
    """Settings that name the served disk, and what the guest writes upon it."""
    return f"""<?xml version="1.0"?>
        <VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
        <Machine uuid="{{{UUID}}}" name="web"><MediaRegistry><HardDisks>
        <HardDisk uuid="{{{UUID}}}" location="disks/web-disk001.vdi" format="VDI" type="Normal">
        <HardDisk uuid="{{{own}}}" location="Snapshots/{{{own}}}.vdi" format="VDI"/>
        </HardDisk></HardDisks></MediaRegistry></Machine></VirtualBox>"""


@pytest.fixture
def virtualbox() -> VirtualBox:
    return VirtualBox()


@pytest.fixture
def note(tmp_path: Path) -> BootNote:
    state = tmp_path / "state"
    state.mkdir()
    disks = tuple(BootDisk(f"{n}.vmdk", UUID, f"web-disk{n:03}.vdi") for n in (1, 2))
    return BootNote(
        state / f"boot-{'a' * 32}.json",
        tmp_path / "vms" / "web",
        *("web", UUID, "original", "web", "20261122T203800Z-17", "digest"),
        disks,
        "2026-11-22T20:38:00Z",
        phase=Phase.RUNNING,
    )


@pytest.fixture
def made(note: BootNote) -> BootNote:
    """A VM whose disks are filled."""
    note.folder.parent.mkdir()
    scratch.make(note.folder, note.mark)
    note.place.mkdir()
    note.filling.mkdir()
    for disk in note.disks:
        note.partial(disk).write_bytes(b"whole")
    note.whole.write({"stamp": note.stamp, "index": note.index})
    boot_note.write(note)
    return note


@pytest.fixture
def site(virtualbox: VirtualBox, note: BootNote, monkeypatch: pytest.MonkeyPatch) -> Any:
    for ended in ("end", "discarded"):
        monkeypatch.setattr(boot_hold, ended, lambda _site, _note: None)
    snapshots = (SimpleNamespace(name=note.mark.name, uuid="snap"),)

    def inventory() -> dict[str, Any]:
        machine = SimpleNamespace(
            uuid=UUID,
            settings_file=str(note.folder / "web.vbox"),
            settings=SimpleNamespace(snapshots=snapshots, images=virtualbox.images),
            images=(),
        )
        return {UUID: machine} if virtualbox.listed else {}

    clock = SimpleNamespace(
        monotonic=lambda: 0.0, sleep=lambda _seconds: None, now=lambda: datetime.now(UTC)
    )
    return SimpleNamespace(vboxmanage=virtualbox, inventory=inventory, clock=clock)


def named(note: BootNote) -> list[str]:
    return sorted(path.name for path in note.place.iterdir())


class TestSettle:
    def test_a_whole_vm_that_is_off_becomes_an_ordinary_one(
        self, site: Any, made: BootNote, virtualbox: VirtualBox
    ) -> None:
        assert settling.settle(site, made) == ""
        assert named(made) == ["web-disk001.vdi", "web-disk002.vdi"]
        assert virtualbox.told == [("snapshot", UUID, "delete", "snap")]
        assert sorted(path.name for path in made.folder.iterdir()) == ["disks"]
        assert [path.name for path in made.file.parent.iterdir()] == [REMEMBERED]
        assert settling.settle(site, made) == ""
        assert [path.name for path in made.file.parent.iterdir()] == [REMEMBERED]

    @pytest.mark.parametrize(
        "change",
        [
            lambda note, _: note.whole.remove(),
            lambda note, _: note.whole.write({"stamp": note.stamp, "index": "another"}),
            lambda note, _: boot_note.write(replace(note, phase=Phase.MAKING)),
            lambda _, virtualbox: setattr(virtualbox, "state", "running"),
            lambda _, virtualbox: setattr(virtualbox, "state", "paused"),
            lambda _, virtualbox: setattr(virtualbox, "state", "saved"),
            lambda _, virtualbox: setattr(virtualbox, "state", "starting"),
            lambda _, virtualbox: setattr(virtualbox, "session", "GUI/Qt"),
        ],
    )
    def test_no_disk_gets_its_name_before(
        self,
        site: Any,
        made: BootNote,
        virtualbox: VirtualBox,
        change: Callable[[BootNote, VirtualBox], None],
    ) -> None:
        change(made, virtualbox)
        assert settling.settle(site, made)
        assert named(made) == []
        assert virtualbox.told == []
        assert made.file.exists()

    @pytest.mark.parametrize("state", ["running", "saved"])
    def test_one_that_was_started_before_its_merge_is_merged_when_it_is_off(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, state: str
    ) -> None:
        for disk in made.disks:
            made.partial(disk).rename(made.place / disk.file)
        boot_note.advanced(made, Phase.PLACED)
        virtualbox.state = state
        assert f"it is {state}" in settling.settle(site, made)
        assert (virtualbox.told, made.file.exists()) == ([], True)
        virtualbox.state = "poweroff"
        assert settling.settle(site, made) == ""
        assert virtualbox.told == [("snapshot", UUID, "delete", "snap")]

    def test_what_stands_on_it_twice_stays_and_it_is_an_ordinary_vm(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its user went back to the snapshot after taking one, or made a linked clone of it."""
        for uuid in ("now", "other"):
            virtualbox.images[uuid] = SimpleNamespace(uuid=uuid, parent=UUID)
        virtualbox.locked = 1
        assert settling.settle(site, made) == ""
        assert named(made) == ["web-disk001.vdi", "web-disk002.vdi"]
        _, (*words, _) = virtualbox.told
        assert (words, made.file.exists()) == (["snapshot", UUID, "edit", "snap"], False)
        assert made.mark.name in caplog.text

    def test_not_while_somebody_makes_or_starts_it(
        self, site: Any, made: BootNote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "alone", partial(locks.alone, seconds=0.0))
        with host_lock(made.file.parent, made.file.stem):
            assert settling.settle(site, made)
            with pytest.raises(LockedError):
                removing.discard(site, made)
            with pytest.raises(LockedError):
                removing.after_a_crash(site, replace(made, phase=Phase.MAKING))
        assert named(made) == []

    def test_who_works_on_it_is_waited_for(
        self, made: BootNote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with contextlib.ExitStack() as other:
            assert other.enter_context(host_lock(made.file.parent, made.file.stem))
            monkeypatch.setattr(locks.time, "sleep", lambda _: other.close())
            with locks.alone(made):
                pass

    def test_not_while_a_disk_is_open(
        self, site: Any, made: BootNote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def busy(*_words: Any, **_options: Any) -> None:
            raise LockedError("busy")

        monkeypatch.setattr(mounts, "unmount", busy)
        assert settling.settle(site, made) == "busy"
        assert named(made) == []

    def test_killed_between_two_disks_it_goes_on(self, site: Any, made: BootNote) -> None:
        made.partial(made.disks[0]).rename(made.place / made.disks[0].file)
        assert settling.settle(site, made) == ""
        assert named(made) == ["web-disk001.vdi", "web-disk002.vdi"]

    def test_a_note_that_came_back_older_takes_no_disk_for_something_in_the_way(
        self, site: Any, made: BootNote
    ) -> None:
        """As when the state directory was put back, or its last writes were lost."""
        older = made.file.read_bytes()
        assert settling.settle(site, made) == ""
        made.file.write_bytes(older)
        with pytest.raises(UsageError, match="is older than the VM 'web'") as raised:
            mounts.make_free(made, SubprocessRunner())
        assert "leave them there" in raised.value.hint
        assert named(made) == ["web-disk001.vdi", "web-disk002.vdi"]

    def test_another_file_in_the_place_of_a_disk_stays(self, site: Any, made: BootNote) -> None:
        (made.place / made.disks[1].file).write_bytes(b"mine")
        with pytest.raises(UsageError, match="in the way"):
            settling.settle(site, made)
        assert (made.place / made.disks[1].file).read_bytes() == b"mine"

    def test_a_disk_that_is_gone_is_told(self, site: Any, made: BootNote) -> None:
        made.partial(made.disks[1]).unlink()
        with pytest.raises(UsageError, match="are gone"):
            settling.settle(site, made)

    def test_a_snapshot_that_cannot_be_merged_is_told_and_merged_by_the_next_one(
        self, site: Any, made: BootNote, virtualbox: VirtualBox
    ) -> None:
        virtualbox.fails = True
        for _ in range(2):
            with pytest.raises(VBoxManageError, match="cannot be merged: no"):
                settling.settle(site, made)
            found = boot_note.read(made.file)
            assert found is not None
            assert found.phase == Phase.PLACED
        virtualbox.fails = False
        virtualbox.told.clear()
        assert settling.settle(site, made) == ""
        assert virtualbox.told == [("snapshot", UUID, "delete", "snap")]
        assert not made.file.exists()

    def test_one_whose_settings_cannot_be_read_is_not_merged_by_that(
        self, site: Any, made: BootNote
    ) -> None:
        found = site.inventory()
        found[UUID].settings, found[UUID].reason = None, "no settings"
        site.inventory = lambda: found
        with pytest.raises(VBoxManageError, match="no settings"):
            settling.settle(site, made)
        assert boot_note.read(made.file) == made
        assert named(made) == []

    @pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.PLACED])
    def test_a_vm_that_is_not_listed_is_left_as_it_is(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, phase: Phase
    ) -> None:
        """This may be another user, or VirtualBox with another home."""
        boot_note.advanced(made, phase)
        (made.folder / "web.vbox").write_text("settings")
        virtualbox.listed = False
        with pytest.raises(UsageError, match="does not list") as raised:
            settling.settle(site, made)
        assert "registervm" in raised.value.hint
        assert "--discard" in raised.value.hint
        assert named(made) == []
        assert made.file.exists()

    def test_one_that_was_deleted_when_it_needed_its_copy_no_more_is_forgotten(
        self, site: Any, made: BootNote, virtualbox: VirtualBox
    ) -> None:
        boot_note.advanced(made, Phase.PLACED)
        virtualbox.listed = False
        assert settling.settle(site, made) == ""
        assert not made.file.exists()

    @pytest.mark.broad
    def test_another_user_settles_and_removes_nothing(
        self, site: Any, made: BootNote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machines.os, "geteuid", lambda: made.folder.stat().st_uid + 1)
        for work in (settling.settle, removing.discard):
            with pytest.raises(UsageError, match="is a VM of uid"):
                work(site, made)
        with pytest.raises(UsageError, match="is a VM of uid"):
            removing.after_a_crash(site, boot_note.advanced(made, Phase.MAKING))
        assert made.partial(made.disks[0]).exists()
        assert made.file.exists()

    def test_a_vm_that_was_moved_is_left_alone(self, site: Any, made: BootNote) -> None:
        found = site.inventory()
        found[UUID].settings_file = "/elsewhere/web.vbox"
        site.inventory = lambda: found
        with pytest.raises(VBoxManageError, match="was moved"):
            settling.settle(site, made)
        assert named(made) == []


class TestGoOn:
    """Its disks are served again whenever it needs that, and only then."""

    @pytest.fixture(autouse=True)
    def told(self, note: BootNote, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What is done, in its order."""
        told = list[str]()
        monkeypatch.setattr(boot_hold, "place", lambda _site, record, _note: told.append(record))

        def serve(_note: BootNote, copy: Any, *_: Any, fresh: bool) -> tuple[str, ...]:
            with host_lock(note.file.parent, note.file.stem) as free:
                told.append(f"serve {copy.name}, fresh: {fresh}, alone: {not free}")
            return ("no room for all",)

        monkeypatch.setattr(machine_making, "serve", serve)
        return told

    def go_on(self, site: Any, note: BootNote) -> BootNote:
        copy = SimpleNamespace(name="the copy", sidecar=None)
        after, doubts = going_on.go_on(site, note, lambda: ("hold", copy), None)  # type: ignore[arg-type,return-value]
        self.doubts = doubts
        return after

    def test_one_that_was_saved_is_served_again(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, told: list[str]
    ) -> None:
        """Whole or not: its disks get their names when it was shut down."""
        virtualbox.state = "saved"
        self.go_on(site, made)
        made.whole.remove()
        self.go_on(site, made)
        assert told == ["hold", "serve the copy, fresh: False, alone: True"] * 2

    def test_one_that_is_not_whole_is_served_again(
        self, site: Any, made: BootNote, told: list[str]
    ) -> None:
        made.whole.remove()
        self.go_on(site, made)
        assert len(told) == 2
        assert self.doubts == ("no room for all",)

    @pytest.mark.parametrize(("state", "started"), [("paused", True), ("running", False)])
    def test_one_that_virtualbox_has_paused_is_resumed(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, state: str, *, started: bool
    ) -> None:
        virtualbox.state = state
        assert going_on.start(site, made) == started
        assert virtualbox.told == [("controlvm", UUID, "resume")] * started

    @pytest.mark.parametrize(("meanwhile", "tries"), [("", 3), ("running", 1)])
    def test_whoever_looks_at_one_that_is_off_is_waited_for(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, meanwhile: str, tries: int
    ) -> None:
        """Not once it runs, as its user has started it there."""
        virtualbox.session, virtualbox.locked, virtualbox.meanwhile = "GUI/Qt", 2, meanwhile
        assert going_on.start(site, made) == (not meanwhile)
        assert virtualbox.told == [("startvm", UUID, "--type=headless")] * tries

    def test_one_that_is_whole_and_off_is_not(
        self, site: Any, made: BootNote, told: list[str]
    ) -> None:
        self.go_on(site, made)
        assert told == []
        assert self.doubts == ()

    @pytest.mark.parametrize("whole", [True, False])
    def test_one_that_is_on_is_refused(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, told: list[str], whole: bool
    ) -> None:
        virtualbox.state = "running"
        if not whole:
            made.whole.remove()
        with pytest.raises(LockedError, match="is on, and what served"):
            self.go_on(site, made)
        virtualbox.state, virtualbox.session = "poweroff", "GUI/Qt"
        with pytest.raises(LockedError, match="somebody has 'web' open in VirtualBox"):
            self.go_on(site, made)
        assert told == []

    def test_one_whose_disks_have_their_names_is_not(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, told: list[str]
    ) -> None:
        """Killed after that, and saved since: nothing may be served over them."""
        virtualbox.state = "saved"
        for disk in made.disks:
            made.partial(disk).rename(made.place / disk.file)
        self.go_on(site, made)
        shutil.rmtree(made.filling)
        boot_note.advanced(made, Phase.PLACED)
        self.go_on(site, made)
        assert told == []

    def test_one_that_is_served_is_not(
        self, site: Any, made: BootNote, told: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.whole.remove()
        monkeypatch.setattr(mounts, "is_served", lambda _: True)
        self.go_on(site, made)
        assert told == []

    def test_one_that_is_not_listed_is_refused(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, told: list[str]
    ) -> None:
        virtualbox.listed = False
        with pytest.raises(UsageError, match="does not list"):
            self.go_on(site, made)
        assert told == []

    def rename(self, site: Any, made: BootNote) -> Path:
        """VirtualBox takes the folder along when a VM gets another name."""
        renamed = made.folder.with_name("other")
        made.folder.rename(renamed)
        made.progress.write({"filled": 1})  # its server still does that there
        found = site.inventory()
        found[UUID].settings_file = str(renamed / "other.vbox")
        site.inventory = lambda: found
        return renamed

    def moved(self, site: Any, made: BootNote, folder: Path, data: bytes) -> tuple[BootNote, Path]:
        """Its note with one disk, and that, in the folder where VirtualBox has it by now."""
        made = replace(made, disks=made.disks[:1])
        boot_note.write(made)
        made.partial(BootDisk("2.vmdk", UUID, "web-disk002.vdi")).unlink()
        folder.mkdir(exist_ok=True)
        disk = folder / "web-disk001.vdi"
        disk.write_bytes(data)
        found = site.inventory()
        found[UUID].settings_file = str(folder / "web.vbox")
        found[UUID].images = (SimpleNamespace(uuid=UUID, location=str(disk)),)
        site.inventory = lambda: found
        return made, disk

    @pytest.mark.parametrize("change", ["", "other", "not filled"])
    def test_one_that_was_moved_with_its_disks_needs_what_was_filled_no_more(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, tmp_path: Path, change: str
    ) -> None:
        """As `VBoxManage movevm` does, which copies what is served, under the same UUID."""
        data = b"other" if change == "other" else b"whole"
        made, disk = self.moved(site, made, tmp_path / "moved", data)
        if change == "not filled":
            made.whole.remove()
            with pytest.raises(VBoxManageError, match="was moved") as raised:
                self.go_on(site, made)
            assert "movevm" in raised.value.hint
            assert settling.settle(site, made) == "it is being filled"
            return
        virtualbox.state = "running"
        assert settling.settle(site, self.go_on(site, made)) == "it is running"
        virtualbox.state = "poweroff"
        disk.chmod(0o400)  # as what is served
        if change:
            with pytest.raises(UsageError, match="is not what was filled") as refused:
                settling.settle(site, made)
            assert f"cp -f {made.partial(made.disks[0])} {disk}" in refused.value.hint
            assert boot_note.read(made.file) == made
            return
        with pytest.raises(VBoxManageError, match="was moved") as raised:
            removing.discard(site, made)
        assert "--finish web" in raised.value.hint
        assert settling.settle(site, made) == ""
        assert virtualbox.told == [("snapshot", UUID, "delete", "snap")]
        assert not made.folder.exists()
        assert [path.name for path in made.file.parent.iterdir()] == [REMEMBERED]
        assert disk.read_bytes() == b"whole"
        assert disk.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("done", ["named", "noted", "let go", "gone"])
    def test_one_whose_disks_had_their_names_when_it_was_moved_is_merged(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, tmp_path: Path, done: str
    ) -> None:
        """The merge had failed, or was not begun: its files themselves were moved."""
        made, disk = self.moved(site, made, tmp_path / "moved", b"")
        made.partial(made.disks[0]).rename(disk)
        made.place.rmdir()
        if done != "named":
            made = boot_note.advanced(made, Phase.PLACED)
        if done in ("let go", "gone"):
            shutil.rmtree(made.filling if done == "let go" else made.folder)
        virtualbox.state = "running"
        assert settling.settle(site, self.go_on(site, made)) == "it is running"
        virtualbox.state = "poweroff"
        assert settling.settle(site, made) == ""
        assert virtualbox.told == [("snapshot", UUID, "delete", "snap")]
        assert (disk.read_bytes(), made.folder.exists(), made.file.exists()) == (
            *(b"whole", False, False),
        )

    def test_one_that_was_moved_is_merged_also_if_that_was_broken_off(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, tmp_path: Path
    ) -> None:
        made, disk = self.moved(site, made, tmp_path / "moved", b"whole")
        virtualbox.fails = True
        with pytest.raises(VBoxManageError, match="cannot be merged"):
            settling.settle(site, made)
        disk.write_bytes(b"half merged")
        virtualbox.fails = False
        assert settling.settle(site, made) == ""
        assert not made.folder.exists()

    @pytest.mark.parametrize("whole", [True, False])
    def test_one_that_was_moved_back_has_the_disk_that_was_compared(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, whole: bool
    ) -> None:
        """VirtualBox puts its disks into its folder itself."""
        made, disk = self.moved(site, made, made.folder, b"whole" if whole else b"other")
        if not whole:
            with pytest.raises(UsageError, match="is not what was filled"):
                settling.settle(site, made)
            assert (virtualbox.told, named(made)) == ([], [])
            assert made.partial(made.disks[0]).exists()
            return
        assert settling.settle(site, made) == ""
        assert virtualbox.told == [("snapshot", UUID, "delete", "snap")]
        assert sorted(each.name for each in made.folder.iterdir()) == ["disks", disk.name]
        assert named(made) == []

    @pytest.mark.parametrize("later", [False, True])
    def test_one_that_was_moved_and_is_started_meanwhile_is_merged_when_it_is_off(
        self,
        site: Any,
        made: BootNote,
        virtualbox: VirtualBox,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        later: bool,
    ) -> None:
        """While its disks are compared, which are served until then, or after that."""
        made, _ = self.moved(site, made, tmp_path / "moved", b"whole")
        done = list[str]()

        def do(what: str, *, starts: bool) -> Callable[..., bool]:
            def it(*_: Any, **__: Any) -> bool:
                done.append(what)
                virtualbox.state = "running" if starts else virtualbox.state
                return True

            return it

        monkeypatch.setattr(settling.filecmp, "cmp", do("compared", starts=not later))
        monkeypatch.setattr(mounts, "unmount", do("unmounted", starts=later))
        assert settling.settle(site, made, serving=True) == "it is running"
        assert done == ["compared", "unmounted"][: 1 + later]
        found = boot_note.read(made.file)
        assert found is not None
        assert found.phase == (Phase.PLACED if later else Phase.RUNNING)  # the server tries again
        virtualbox.state = "poweroff"
        monkeypatch.setattr(mounts, "unmount", do("unmounted", starts=False))
        monkeypatch.setattr(settling.filecmp, "cmp", do("compared", starts=False))
        assert settling.settle(site, made) == ""

    def test_while_it_is_filled_nobody_asks_where_it_lies(self, site: Any, made: BootNote) -> None:
        def unexpected() -> None:
            raise AssertionError("each look takes two calls of VBoxManage")

        made.whole.remove()
        site.inventory = unexpected
        assert settling.settle(site, made) == "it is being filled"

    @pytest.mark.parametrize(("state", "started"), [("running", False), ("saved", True)])
    def test_one_that_was_moved_runs_already_or_again(
        self,
        site: Any,
        made: BootNote,
        virtualbox: VirtualBox,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        state: str,
        started: bool,
    ) -> None:
        begun = list[str]()
        monkeypatch.setattr(machines.PowerSwitch, "start", lambda _, uuid: begun.append(uuid))
        made, _ = self.moved(site, made, tmp_path / "moved", b"whole")
        virtualbox.state = state
        assert going_on.start(site, made) == started
        assert begun == [UUID] * started

    def test_one_that_was_renamed_is_followed(
        self, site: Any, made: BootNote, told: list[str]
    ) -> None:
        made.whole.remove()
        renamed = self.rename(site, made)
        with pytest.raises(VBoxManageError, match="was moved") as raised:
            machines.machine_of(site, made)
        assert "--finish" in raised.value.hint
        after = self.go_on(site, made)
        assert (after.folder, after.name) == (renamed, "web")
        assert boot_note.read(made.file) == after
        assert not made.folder.exists()
        assert len(told) == 2

    def test_one_that_was_renamed_is_settled(self, site: Any, made: BootNote) -> None:
        self.rename(site, made)
        after = self.go_on(site, made)
        assert settling.settle(site, after) == ""
        assert named(after) == ["web-disk001.vdi", "web-disk002.vdi"]

    def test_one_that_was_renamed_and_is_on_is_not_followed(
        self, site: Any, made: BootNote, virtualbox: VirtualBox
    ) -> None:
        self.rename(site, made)
        virtualbox.state = "running"
        with pytest.raises(LockedError, match="is on"):
            self.go_on(site, made)
        assert boot_note.read(made.file) == made

    def test_one_that_lies_where_we_made_nothing_is_not_followed(
        self, site: Any, made: BootNote
    ) -> None:
        renamed = self.rename(site, made)
        scratch.write_mark(renamed, scratch.Mark("another"))
        with pytest.raises(VBoxManageError, match="was moved"):
            self.go_on(site, made)
        assert boot_note.read(made.file) == made


class TestCommand:
    """How `boot` and `boot --finish` go on, and end."""

    @pytest.fixture
    def work(self, site: Any, monkeypatch: pytest.MonkeyPatch) -> boot_work.BootCommand:
        monkeypatch.setattr(going_on, "go_on", lambda _site, note, *_: (note, ()))
        monkeypatch.setattr(going_on, "start", lambda *_: True)
        return boot_work.BootCommand(site, None, as_json=False, dry_run=False)

    def test_a_merge_that_fails_is_told_and_no_success(
        self,
        work: boot_work.BootCommand,
        made: BootNote,
        virtualbox: VirtualBox,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        virtualbox.fails = True
        with pytest.raises(VBoxManageError, match="cannot be merged"):
            work.finish(made)
        work.go_on(made)
        said = capsys.readouterr()
        assert "cannot be merged" in said.err
        assert "ordinary" not in said.out
        virtualbox.fails = False
        work.go_on(made)
        assert "ordinary" in capsys.readouterr().out

    def test_one_whose_filling_folder_is_gone_already_is_finished(
        self, work: boot_work.BootCommand, made: BootNote, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Killed between the end of the hold and that of the note."""
        for disk in made.disks:
            made.partial(disk).rename(made.place / disk.file)
        shutil.rmtree(made.filling)
        work.go_on(boot_note.advanced(made, Phase.PLACED))
        assert "ordinary" in capsys.readouterr().out
        assert not made.file.exists()

    @pytest.mark.parametrize("moved", ["", "renamed", "moved"])
    def test_it_is_said_where_it_lies_by_now(
        self,
        site: Any,
        made: BootNote,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        moved: str,
    ) -> None:
        place = made.folder.with_name(moved or made.folder.name)
        found = site.inventory()

        def settle(_site: Any, note: BootNote) -> str:
            found[UUID].settings_file = str(place / "web.vbox")
            note.file.unlink()
            return ""

        def go_on(_site: Any, note: BootNote, *_: Any) -> tuple[BootNote, tuple[str, ...]]:
            return (replace(note, folder=place) if moved == "renamed" else note), ()

        site.inventory = lambda: found
        monkeypatch.setattr(settling, "settle", settle)
        monkeypatch.setattr(going_on, "go_on", go_on)
        boot_work.BootCommand(site, None, as_json=True, dry_run=False).finish(made)
        assert json.loads(capsys.readouterr().out)["folder"] == str(place)

    @pytest.fixture
    def stuck(self, site: Any, made: BootNote, monkeypatch: pytest.MonkeyPatch) -> BootNote:
        """A server that lives and does not get on; time goes by as it is waited for."""
        made.whole.remove()
        own = ProcessIdentity.of(os.getpid())
        assert own
        who = {"pid": own.pid, "started": own.started, "born": own.born}
        made.progress.write({**who, "problem": "block 7 is damaged", "filled": 1, "total": 2})
        monkeypatch.setattr(mounts, "is_served", lambda _: True)
        seconds = [0.0]
        site.clock.monotonic = lambda: seconds[0]
        site.clock.sleep = lambda more: seconds.append(seconds.pop() + more)
        return made

    def test_what_cannot_be_filled_ends_the_waiting(
        self, work: boot_work.BootCommand, stuck: BootNote
    ) -> None:
        with pytest.raises(CopyError, match="block 7 is damaged") as raised:
            work.finish(stuck)
        assert raised.value.exit_code == ExitCode.FAILURE
        assert "--discard web" in raised.value.hint

    def test_a_server_that_dies_meanwhile_is_started_again(
        self,
        work: boot_work.BootCommand,
        stuck: BootNote,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        served = list[BootNote]()

        def go_on(_site: Any, note: BootNote, *_: Any) -> tuple[BootNote, tuple[str, ...]]:
            served.append(note)
            if len(served) == 3:
                note.whole.write({"stamp": note.stamp, "index": note.index})
            return note, ("no room for all",)

        lives = iter([False, True, False, True, True, False])
        monkeypatch.setattr(mounts, "is_served", lambda _: next(lives, False))
        monkeypatch.setattr(going_on, "go_on", go_on)
        assert work.finish(stuck) == ExitCode.DONE
        assert len(served) == 3
        assert "warning: no room for all" in capsys.readouterr().err

    @pytest.mark.parametrize("again", [True, False])
    def test_one_that_is_paused_again_at_once_does_not_run_again(
        self,
        work: boot_work.BootCommand,
        site: Any,
        stuck: BootNote,
        virtualbox: VirtualBox,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        *,
        again: bool,
    ) -> None:
        """As its NAS is still away: a guest asks again as soon as it is resumed."""
        stuck.progress.write({"unread": "the NAS is away", "filled": 1, "total": 2})
        monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
        virtualbox.state = "running"
        if again:
            site.clock.sleep = lambda _: setattr(virtualbox, "state", "paused")
            with pytest.raises(NasError, match=r"paused by VirtualBox.*the NAS is away"):
                work.go_on(stuck)
        else:
            work.go_on(stuck)
        assert ("runs again" in capsys.readouterr().out) != again


class TestDiscard:
    @pytest.fixture(autouse=True)
    def off(self, virtualbox: VirtualBox) -> None:
        virtualbox.listed = False

    def test_all_of_it_goes(self, site: Any, made: BootNote) -> None:
        removing.discard(site, made)
        assert not made.folder.exists()
        assert list(made.file.parent.iterdir()) == []

    @pytest.mark.broad
    def test_a_server_that_does_not_end_is_ended(
        self, site: Any, made: BootNote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at_once = partial(mounts.wait_for_server, grace_seconds=0.0)
        monkeypatch.setattr(mounts, "wait_for_server", at_once)
        words = [sys.executable, "-c", HOLDS, str(made.file.parent / f"{made.server_lock}.lock")]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
            assert server.stdout
            assert server.stdout.readline() == b"held\n"
            own = ProcessIdentity.of(server.pid)
            assert own
            made.progress.write({"pid": own.pid, "started": own.started - 60, "born": "other"})
            assert made.server
            assert not made.server.is_certain()
            made.progress.write({"pid": own.pid, "started": own.started, "born": own.born})
            removing.discard(site, made)
            assert server.wait(30) == -signal.SIGKILL
        assert not made.folder.exists()

    def test_half_removed_it_is_removed_by_the_next_one(self, site: Any, made: BootNote) -> None:
        for disk in made.disks:
            made.partial(disk).unlink()
        made.place.rmdir()
        removing.discard(site, made)
        assert not made.folder.exists()

    @pytest.mark.parametrize("done", range(8))
    def test_killed_before_any_file_goes_it_is_removed_by_the_next_one(
        self, site: Any, made: BootNote, monkeypatch: pytest.MonkeyPatch, done: int
    ) -> None:
        own = "11111111-2222-3333-4444-5555555555aa"
        (made.folder / "web.vbox").write_text(settings_of(own))
        (made.folder / "Snapshots").mkdir()
        (made.folder / "Snapshots" / f"{{{own}}}.vdi").touch()
        (made.folder / "web.vbox-prev").touch()
        gone, unlink = list[Path](), Path.unlink

        def killed(path: Path, *, missing_ok: bool = False) -> None:
            if len(gone) == done:
                raise PowerCutError
            if path.exists():
                gone.append(path)
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", killed)
            with contextlib.suppress(PowerCutError):
                removing.discard(site, made)
        assert removing.discard(site, made) == ()
        assert not made.folder.exists()
        assert list(made.file.parent.iterdir()) == []

    @pytest.mark.parametrize("phase", [Phase.MAKING, Phase.RUNNING])
    def test_a_folder_of_somebody_else_stays(self, site: Any, note: BootNote, phase: Phase) -> None:
        note = replace(note, phase=phase)
        note.folder.mkdir(parents=True)
        (note.folder / "theirs.txt").write_text("theirs")
        boot_note.write(note)
        if phase == Phase.MAKING:
            removing.discard(site, note)
        else:
            with pytest.raises(UsageError):
                removing.discard(site, note)
        assert (note.folder / "theirs.txt").read_text() == "theirs"

    def test_a_folder_that_was_moved_with_its_mount_is_not_taken_for_gone(
        self,
        site: Any,
        made: BootNote,
        virtualbox: VirtualBox,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its server and its guest go on, so the copy stays held."""
        virtualbox.listed = False
        there = made.folder.with_name("my els'where")
        made.folder.rename(there)
        (there / "theirs.vbox").touch()
        mount = MountedCopy(str(there / "disks"), "web")
        monkeypatch.setattr(places, "mounted", lambda **_: [mount])
        ended = list[object]()
        monkeypatch.setattr(boot_hold, "discarded", lambda *_: ended.append(1))
        with pytest.raises(LockedError, match=r"was moved to .*with the disks of 'web'") as refused:
            removing.discard(site, made)
        register = f"VBoxManage registervm {shlex.quote(str(there / 'theirs.vbox'))}"
        assert register in refused.value.hint
        assert (ended, made.file.exists()) == ([], True)
        with pytest.raises(UsageError) as unlisted:
            machines.listed(site, made)
        assert register in unlisted.value.hint
        assert (progress(made).served, progress(made).whole) == (True, True), "it is found there"
        monkeypatch.setattr(places, "mounted", lambda **_: [])
        assert removing.discard(site, made) == ()
        assert (ended, made.file.exists()) == ([1], False)

    def test_what_its_user_has_put_there_stays(
        self, site: Any, made: BootNote, virtualbox: VirtualBox
    ) -> None:
        own, theirs = "11111111-2222-3333-4444-5555555555aa", "22222222" + UUID[8:]
        (made.folder / "web.vbox").write_text(settings_of(own))
        snapshots, logs = made.folder / "Snapshots", made.folder / "Logs"
        for place in (snapshots, logs):
            place.mkdir()
        for file in (
            *(snapshots / f"{{{own}}}.vdi", logs / "VBox.log", made.folder / "web.nvram"),
            *(made.folder / "web.vbox-prev", snapshots / "2026-11-22T20-38-00-123456789Z.sav"),
        ):
            file.write_text("goes")
        kept = [
            *(made.folder / "notes.txt", made.folder / "theirs.vdi", made.place / "other.vdi"),
            snapshots / f"{{{theirs}}}.vdi",
        ]
        for file in kept:
            file.write_text("theirs")
        assert removing.discard(site, made) == ("Snapshots", "disks", "notes.txt", "theirs.vdi")
        assert sorted(p for p in made.folder.rglob("*") if p.is_file()) == sorted(kept)
        assert list(made.file.parent.iterdir()) == []

    def test_a_disk_on_which_another_vm_stands_stays(self, site: Any, made: BootNote) -> None:
        clone = SimpleNamespace(uuid="x", name="clone", images=(SimpleNamespace(uuid=UUID),))
        site.inventory = lambda: {"x": clone}
        with pytest.raises(LockedError, match="'clone' stands on a disk"):
            removing.discard(site, made)
        assert made.partial(made.disks[0]).exists()
        assert made.file.exists()

    def test_one_that_virtualbox_cannot_use_is_unregistered(
        self, site: Any, made: BootNote, virtualbox: VirtualBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(_uuid: str) -> Any:
            raise VBoxManageError("inaccessible")

        monkeypatch.setattr(virtualbox, "info", unknown)
        machine = SimpleNamespace(
            *(), uuid=UUID, settings_file=str(made.folder / "web.vbox"), settings=None
        )
        machine.accessible = machine.running = False
        site.inventory = lambda: {UUID: machine}
        removing.discard(site, made)
        assert virtualbox.told == [("unregistervm", UUID)]
        assert not made.folder.exists()

    def test_what_another_one_has_made_in_that_place_stays(
        self, site: Any, made: BootNote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two that are begun at once, or whose names are one folder: the second gives way."""
        unmounted = list[BootNote]()
        monkeypatch.setattr(mounts, "unmount", lambda note, *_, **__: unmounted.append(note))
        loser = replace(
            made,
            file=made.file.with_name(f"boot-{'b' * 32}.json"),
            uuid="22222222-2222-3333-4444-555555555555",
            disks=(BootDisk("1.vmdk", "b", "web-disk001.vdi"),),
            phase=Phase.MAKING,
        )
        boot_note.write(loser)
        removing.remove(site, loser)
        assert unmounted == []
        assert not loser.file.exists()
        assert made.partial(made.disks[0]).exists()
        assert scratch.mark_in(made.folder) == made.mark

    def test_an_ordinary_vm_stays(self, site: Any, made: BootNote) -> None:
        placed = boot_note.advanced(made, Phase.PLACED)
        with pytest.raises(UsageError, match="ordinary"):
            removing.discard(site, placed)
        assert made.folder.exists()


class TestAfterACrash:
    @pytest.fixture(autouse=True)
    def off(self, virtualbox: VirtualBox) -> None:
        virtualbox.listed = False

    def test_what_never_ran_is_removed(self, site: Any, made: BootNote) -> None:
        machine_making = boot_note.advanced(made, Phase.MAKING)
        assert removing.after_a_crash(site, machine_making) is None
        assert not made.folder.exists()

    def test_what_its_user_started_meanwhile_is_kept(self, site: Any, made: BootNote) -> None:
        machine_making = boot_note.advanced(made, Phase.MAKING)
        (made.folder / "Logs").mkdir()
        kept = removing.after_a_crash(site, machine_making)
        assert kept is not None
        assert kept.phase == Phase.RUNNING
        assert boot_note.read(made.file) == kept


class TestNote:
    def test_it_is_read_as_it_was_written(self, made: BootNote) -> None:
        state = made.file.parent
        assert boot_note.read(made.file) == made
        assert boot_note.named(state, "web") == made
        assert boot_note.named(state, "other") is None
        assert boot_note.unfinished(state) == {UUID}
        assert boot_note.read(state / "boot-none.json") is None

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"folder": "x"}'])
    def test_one_that_cannot_be_read_is_told(self, made: BootNote, text: str) -> None:
        made.file.write_text(text)
        with pytest.raises(ConfigurationError, match="cannot be read"):
            boot_note.read(made.file)

    def test_a_disk_leads_nowhere_else(self, made: BootNote) -> None:
        made.file.write_text(made.file.read_text().replace("web-disk001.vdi", "../x.vdi"))
        with pytest.raises(ConfigurationError):
            boot_note.read(made.file)

    def test_progress(self, made: BootNote, monkeypatch: pytest.MonkeyPatch) -> None:
        assert progress(made).words.startswith("filled, not served: ")
        made.whole.remove()
        made.progress.write({"filled": 1 << 30, "total": 3 << 30, "rate": 2.0**20, "problem": ""})
        assert "not served" in progress(made).words
        monkeypatch.setattr(boot_mounts, "is_mounted", lambda _note: True)
        assert progress(made).seconds_left == 2048
        assert progress(made).words == "1.0 GiB of 3.0 GiB filled, 1.0 MiB/s, 34 min left"
        made.progress.write({"filled": "x", "rate": None, "problem": "away"})
        assert progress(made).words.endswith("; away")
        made.progress.write({"filled": 1 << 30, "total": 3 << 30, "unread": "the NAS is away"})
        assert progress(made).words.endswith(
            "; paused by VirtualBox, as its guest asked for what could not be read (the NAS is "
            "away): when it can be, `vmbackup-admin boot web` goes on"
        )


def test_isolated() -> None:
    kept = b"""<VirtualBox xmlns="http://www.virtualbox.org/"><Machine><Hardware><Network>
        <Adapter slot="0" enabled="true" cable="true"/><Adapter slot="1" enabled="true"/>
        </Network></Hardware></Machine></VirtualBox>"""
    assert isolated(kept).count(b'cable="false"') == 2
    assert b'cable="true"' not in isolated(kept)


def test_the_cards_are_named_of_which_a_cable_was_pulled() -> None:
    kept = b"""<VirtualBox xmlns="http://www.virtualbox.org/"><Machine><Hardware><Network>
        <Adapter slot="0" enabled="true" cable="false"/><Adapter slot="1" enabled="true"/>
        <Adapter slot="2" enabled="false" cable="true"/>
        <Adapter slot="3" enabled="true" cable="true"/>
        </Network></Hardware></Machine></VirtualBox>"""
    cards = plugged_cards(kept)
    assert (cards, plugged_cards(isolated(kept))) == ((2, 4), ())
    assert cabling("u", cards, on=True, running=True) == (
        "VBoxManage controlvm u setlinkstate2 on && VBoxManage controlvm u setlinkstate4 on"
    )


class TestKeeper:
    """What the server does beside serving; there is nothing to fill."""

    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        put_copy(tmp_path / "nas", STAMP, ova())
        return tmp_path / "nas" / f"{STAMP}.ova"

    def keep(
        self,
        note: BootNote,
        copy: Path,
        settle: Callable[..., str],
        seen: Callable[[], object],
        **job: Any,
    ) -> None:
        job = {"ova": str(copy), "config": None, **job}
        keeper = keeping.Keeper(note, [], job, settle=settle)
        keeper.start()
        try:
            wait_for(seen)
        finally:
            keeper.stop()

    def test_whole_copy_without_an_index(self, made: BootNote, copy: Path) -> None:
        note = replace(made, vm=COPIED)
        note.whole.remove()
        settled = list[BootNote]()

        def settle(note: BootNote, _job: object) -> str:
            settled.append(note)
            return ""

        self.keep(note, copy, settle, lambda: settled, indexed=False)
        assert note.is_whole
        assert note.progress.read()["problem"] == ""

    @pytest.mark.broad
    def test_a_damaged_copy_without_an_index_is_never_whole(
        self, made: BootNote, copy: Path
    ) -> None:
        note = replace(made, vm=COPIED)
        note.whole.remove()
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)

        def unexpected(*_: Any) -> str:
            raise AssertionError("it is not whole")

        told = lambda: note.progress.read().get("problem")  # noqa: E731
        self.keep(note, copy, unexpected, told, indexed=False)
        assert not note.is_whole
