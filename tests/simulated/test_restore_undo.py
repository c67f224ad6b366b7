"""A VM that was taken back in place gets its disks of before again: whom that is refused, kills."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.host.errors import ConfigurationError, ExitCode
from shared.state.states import State
from shared.tasks.swap_note import Swap, SwapNote
from tests.simulated.conftest import Rig
from tests.simulated.test_restore_into import (
    DISCARD,
    add_disk,
    contents,
    disks,
    killed,
    made,
    rig,
    used,
    vm,
)
from tests.simulated.test_unlisted import admin, ask
from tests.support.simulated import disks as images
from tests.support.simulated.host import SimulatedVm
from worker import database

__all__ = ["made", "rig", "vm"]

UNDO = ("restore", "--into", "web01", "--undo")


@pytest.fixture
def present(rig: Rig, vm: SimulatedVm) -> list[bytes]:
    """What it was before it was taken back: both of its disks differ from those of the copy."""
    used(vm)
    images.write(str(vm.host.vms / f"{vm.uuid}-SATA-1.vdi"), 1, os.urandom(images.BLOCK))
    return contents(vm)


@pytest.fixture
def taken_back(rig: Rig, vm: SimulatedVm, present: list[bytes]) -> list[bytes]:
    """What it is by now."""
    ask(rig, "restore", "--into", "web01", DISCARD)
    found = contents(vm)
    assert all(new != old for new, old in zip(found, present, strict=True))
    return found


def note_of(rig: Rig, vm: SimulatedVm) -> SwapNote:
    return SwapNote.of(rig.site().configuration.host.state_directory, vm.uuid)


def noted(rig: Rig, vm: SimulatedVm) -> Swap:
    found = note_of(rig, vm).read()
    assert found
    return found


def test_it_has_its_disks_of_before_and_is_backed_up_again(
    rig: Rig, vm: SimulatedVm, present: list[bytes], taken_back: list[bytes]
) -> None:
    assert "or that was broken" not in admin(rig, "status").stdout
    assert "--undo" in admin(rig, "status").stdout
    dry = admin(rig, *UNDO, "--dry-run")
    assert (dry.exit_code, "would get the disks" in dry.stdout) == (0, True), dry.output
    assert contents(vm) == taken_back
    done = ask(rig, *UNDO)
    assert contents(vm) == present
    assert not [name for name in disks(vm) if "vmbackup" in name]
    record = rig.record("web01")
    assert (record.status, record.claim) == (State.BACKUP_NECESSARY, None)
    assert record.restored is None
    said = " ".join(admin(rig, "log", "--vm", "web01").stdout.split())
    assert f"what it had before it was taken back to {done['stamp']}" in said
    assert vm.host.run("startvm", vm.uuid, "--type=headless", check=False).returncode == 0
    vm.stop()
    for words in (UNDO, ("restore", "--into", "web01", "--finish")):
        assert admin(rig, *words).exit_code == ExitCode.STATE_REFUSED


@pytest.mark.usefixtures("taken_back")
@pytest.mark.parametrize("how", ["started", "written", "unknown"])
def test_what_its_guest_wrote_since_is_lost_only_if_that_is_said(
    rig: Rig, vm: SimulatedVm, present: list[bytes], how: str
) -> None:
    if how == "started":
        vm.start()
        vm.stop()
    elif how == "written":
        images.write(str(vm.disk), 2, os.urandom(images.BLOCK))
    else:  # as an older program has noted it
        swap = noted(rig, vm)
        old = tuple(replace(disk, sign="") for disk in swap.disks)
        note_of(rig, vm).write(replace(swap, disks=old, started=""))
    before = contents(vm)
    for more in ((), ("--dry-run",)):
        refused = admin(rig, *UNDO, *more)
        assert refused.exit_code == ExitCode.STATE_REFUSED, refused.output
        assert "was used since it was taken back" in refused.stderr
        assert DISCARD in refused.stderr
    assert contents(vm) == before
    dry = json.loads(admin(rig, *UNDO, DISCARD, "--dry-run", "--json").stdout)
    assert len(dry["discarded"]) >= 1
    assert admin(rig, *UNDO, DISCARD).exit_code == 0
    assert contents(vm) == present


def runs(_rig: Rig, vm: SimulatedVm) -> None:
    vm.start()


def other_disks(_rig: Rig, vm: SimulatedVm) -> None:
    add_disk(vm, "SATA", 2)


def snapshot(_rig: Rig, vm: SimulatedVm) -> None:
    vm.host.run("snapshot", vm.uuid, "take", "before")


def exchanged(rig: Rig, vm: SimulatedVm) -> None:
    old = Path(noted(rig, vm).disks[0].old)
    old.rename(old.with_suffix(".kept"))
    old.write_bytes(b"another")


def copied(rig: Rig, vm: SimulatedVm) -> None:
    """As a move to another file system and back does it."""
    for disk in noted(rig, vm).disks:
        shutil.copy2(disk.place, f"{disk.place}.moved")
        os.replace(f"{disk.place}.moved", disk.place)


@pytest.mark.usefixtures("taken_back")
@pytest.mark.parametrize(
    ("disturb", "said"),
    [
        (copied, "is not the disk any more that was put there"),
        (runs, "shut it down first"),
        (other_disks, "has other disks by now"),
        (snapshot, "it has snapshots"),
        (exchanged, "is not the disk any more that was put there"),
    ],
)
def test_it_is_refused_and_nothing_is_changed(
    rig: Rig, vm: SimulatedVm, disturb: Callable[[Rig, SimulatedVm], None], said: str
) -> None:
    disturb(rig, vm)
    before, swap = disks(vm), noted(rig, vm)
    refused = admin(rig, *UNDO, DISCARD)
    assert (refused.exit_code, said in refused.stderr) == (15, True), refused.output
    assert (disks(vm), noted(rig, vm)) == (before, swap)
    assert rig.record("web01").claim is None


def test_new_disks_that_were_copied_can_be_kept(
    rig: Rig, vm: SimulatedVm, taken_back: list[bytes]
) -> None:
    copied(rig, vm)
    assert admin(rig, *UNDO).exit_code == ExitCode.STATE_REFUSED
    assert not database.run(rig.site()).failed
    finished = admin(rig, "restore", "--into", "web01", "--finish")
    assert finished.exit_code == 0, finished.output
    assert contents(vm) == taken_back
    assert not [name for name in disks(vm) if "vmbackup" in name]


@pytest.mark.usefixtures("taken_back")
def test_a_note_that_cannot_be_removed_is_a_warning_and_goes_with_the_next_tick(
    rig: Rig, vm: SimulatedVm, present: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(_: SwapNote) -> None:
        raise ConfigurationError("the state directory is read-only")

    with monkeypatch.context() as patched:
        patched.setattr(SwapNote, "remove", read_only)
        undone = admin(rig, *UNDO)
    assert undone.exit_code == 0, undone.output
    assert "the state directory is read-only" in undone.stderr
    assert contents(vm) == present
    assert not database.run(rig.site()).failed
    assert note_of(rig, vm).read() is None
    assert contents(vm) == present


@pytest.mark.usefixtures("taken_back")
def test_another_host_does_not_say_that_it_is_finished(rig: Rig) -> None:
    finished = admin(rig, "restore", "--into", "web01", "--finish", host="beta")
    assert finished.exit_code == ExitCode.STATE_REFUSED, finished.output
    assert "give this command on alpha" in finished.stderr


@pytest.mark.parametrize(
    "words",
    [
        (*UNDO, "--finish"),
        (*UNDO, "--copy", "previous"),
        ("restore", "web01", "--undo"),
        (*UNDO, "--as", "other"),
    ],
)
def test_options_that_do_not_fit_are_refused(rig: Rig, words: tuple[str, ...]) -> None:
    assert admin(rig, *words).exit_code == ExitCode.USAGE


#: Before which of its steps the command is killed.
POINTS = (
    ("shared.tasks.disk_swap", "undo", 0),
    *(("shared.tasks.disk_swap", "flush_directory", number) for number in range(4)),  # each rename
    ("shared.tasks.disk_swap", "remove_new", 0),
    ("shared.tasks.swap_note", "SwapNote.remove", 0),
    ("coordinator.restore.in_place_undo", "record_it", 0),
)


@pytest.mark.parametrize("after", ["the command", "the database worker"])
@pytest.mark.parametrize("point", POINTS, ids=lambda value: f"{value[1]}-{value[2]}")
def test_killed_anywhere_it_has_all_old_or_all_new_disks_or_does_not_start(
    rig: Rig,
    vm: SimulatedVm,
    present: list[bytes],
    taken_back: list[bytes],
    point: tuple[str, str, int],
    after: str,
) -> None:
    killed(point, lambda: admin(rig, *UNDO))
    if whole := vm.disk.exists():
        assert contents(vm) in (taken_back, present)
    else:
        assert vm.host.run("startvm", vm.uuid, "--type=headless", check=False).returncode != 0
    ended = whole and contents(vm) == present
    if after == "the command":
        done = admin(rig, *UNDO)
        known = point[1] == "record_it"  # nothing is noted any more
        assert done.exit_code == (ExitCode.STATE_REFUSED if known else 0), done.output
        assert contents(vm) == present
    else:
        assert not database.run(rig.site()).failed
        assert contents(vm) == (present if ended else taken_back)
        assert bool(note_of(rig, vm).read()) == (not ended)
        if not ended:
            assert admin(rig, *UNDO).exit_code == 0
            assert contents(vm) == present
    assert not [name for name in disks(vm) if "vmbackup" in name]
    assert rig.record("web01").claim is None
