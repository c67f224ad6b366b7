"""What is interrupted while a VM runs from its copy, or goes back to it in place.

The servers of disks are processes of their own, which go on when a command is killed. One is killed
itself.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil
import pytest

from shared.host.errors import ExitCode
from shared.ova.disk import Chain
from shared.tasks import boot_note, disk_swap, swap_note
from shared.tasks.boot_note import BootNote
from tests.crash.scenarios import (
    ADMIN,
    ELSEWHERE,
    VM,
    WORKER,
    Scenario,
    machine,
    nothing_rehearsed,
    unpackable,
    use,
)
from tests.crash.world import World
from tests.support.packages import require
from tests.support.simulated import SimulatedVm
from tests.support.simulated import disks as images
from tests.support.waiting import wait_for

TRIAL: Final = "trial"
_BOOT: Final = (ADMIN, "boot", VM, "--as", TRIAL, "--to", ELSEWHERE)
_INTO: Final = (ADMIN, "restore", "--into", VM, "--discard-present-state")
_FINISH_INTO: Final = (ADMIN, "restore", "--into", VM, "--finish")
_UNDO_INTO: Final = (ADMIN, "restore", "--into", VM, "--undo")


def require_fuse() -> None:
    """Skips the test where nothing can be mounted and unmounted; fails it in CI."""
    require("fusermount3", "fuse3")
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root and /dev/fuse")


def trial(world: World) -> SimulatedVm | None:
    """The VM that runs from the copy, if VirtualBox lists it."""
    with world.host.state(changes=False) as host:
        found = [each.uuid for each in host.machines.values() if each.name == TRIAL]
    assert len(found) <= 1, found
    return SimulatedVm(world.host, found[0], TRIAL) if found else None


def noted(world: World) -> BootNote | None:
    return boot_note.named(world.notes, TRIAL)


def contents(*chain: Path) -> bytes:
    """What a guest sees on a disk, but for the first block, in which it counts."""
    with Chain.open(list(chain)) as disk:
        return disk.beginning(disk.size)[images.BLOCK :]


def original(world: World) -> bytes:
    """The disk of the VM of which the copy is, which nobody has touched."""
    return contents(machine(world).disk)


def copied(world: World) -> None:
    """A VM with a copy; what VirtualBox is told counts, too."""
    unpackable(world)
    world.commands_count = True


def booted(world: World) -> None:
    """A VM runs from its copy, and its disk is filled."""
    copied(world)
    world.must(*(str(world.elsewhere / "vms") if word == ELSEWHERE else word for word in _BOOT))
    note = noted(world)
    assert note
    wait_for(lambda: note.is_whole, "its disk to be filled")


def left_alone(world: World) -> None:
    """Its server has died, and then its user has switched it off."""
    name = "a VM that runs from its copy, and nothing serves it"
    world.notes_count = world.commands_count = True
    if world.recall(name):
        return
    booted(world)
    end_servers(world)
    vm = trial(world)
    assert vm
    vm.stop()
    world.remember(name)


def begun(world: World) -> None:
    """The same, with a disk of which a part is missing."""
    left_alone(world)
    note = noted(world)
    assert note
    note.whole.remove()
    for disk in note.disks:
        partial = note.partial(disk)
        Path(f"{partial}.digests").write_bytes(b"")
        with partial.open("r+b") as file:
            file.seek(3 << 20)
            file.write(bytes(1 << 20))


def end_servers(world: World) -> None:
    """Kills what serves disks in this world, and unmounts what that leaves."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "coordinator.booting.disk_server" in process.cmdline() and process.environ().get(
                "VMBACKUP_CONFIG"
            ) == str(world.configuration):
                process.kill()
                process.wait(30)
    for place in _mounted(world):
        subprocess.run(["umount", "--lazy", place], check=True)


def _mounted(world: World) -> Iterator[Path]:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, place, kind, *_ = line.split(" ")
        ours = any(Path(place).is_relative_to(top) for top in (world.elsewhere, world.folder))
        if kind in ("fuse.vmbackup", "fuse.vmbackup-boot") and ours:
            yield Path(place)


def never_on_holes(world: World) -> None:
    """What has the final name of a disk is whole, or is served. The VM of the user is as it was."""
    for image in (world.elsewhere / "vms").glob("*/disks/*"):
        assert contents(image) == original(world), f"{image} is not whole"
    assert world.host.run("list", "runningvms").stdout.count(f'"{VM}"') == 0
    assert world.host.run("list", "vms").stdout.count(f'"{VM}"') == 1


def held(world: World) -> None:
    """While anything is noted of a VM whose guest may have run, its copy is held."""
    note = noted(world)
    if note is not None and note.phase == boot_note.Phase.RUNNING:
        assert [hold.uuid for hold in world.record(VM).holds] == [note.uuid]


def runs_held(world: World) -> None:
    """It runs, on what is in the copy, which stays; then it is thrown away.

    One that was killed before it was started may be filled by now, and so an ordinary VM.
    """
    vm = trial(world)
    assert vm, "it is not there"
    never_on_holes(world)
    if noted(world) is None:
        assert not world.record(VM).holds, "its copy is still held"
        if vm.info("VMState") == "running":
            vm.stop()
        world.host.run("unregistervm", vm.uuid, "--delete")
        shutil.rmtree(world.elsewhere / "vms" / TRIAL)
        world.must(WORKER, "vmfind")
        world.must(ADMIN, "forget", TRIAL)
    else:
        assert vm.info("VMState") == "running", vm.info("VMState")
        assert len(list(_mounted(world))) == 1, "it is not served"
        assert world.record(VM).holds, "its copy is not held"
        held(world)
        world.must(ADMIN, "boot", "--discard", TRIAL, "--yes")
    nothing_booted(world)


def nothing_booted(world: World) -> None:
    """Nothing of it is left, nor a hold; the VM of which the copy is was left alone."""
    assert trial(world) is None
    assert not list(_mounted(world))
    assert not list((world.elsewhere / "vms").iterdir())
    assert not list(world.notes.glob("boot-*.json"))
    assert not world.record(VM).holds
    assert not [path for path in (world.nas / VM).glob("*.json") if "holds" in path.read_text()]
    never_on_holes(world)


def ordinary(world: World) -> None:
    """It is an ordinary VM with all that its guest has written, and goes on."""
    vm = trial(world)
    assert vm
    (image,) = (world.elsewhere / "vms" / TRIAL / "disks").iterdir()
    never_on_holes(world)
    assert vm.counter() > machine(world).counter()
    names = {path.name for path in image.parents[1].iterdir()}
    assert names <= {f"{TRIAL}.vbox", f"{TRIAL}.vbox-prev", "disks", "Snapshots"}, names
    assert not list(world.notes.glob("boot-*.json"))
    assert not world.record(VM).holds
    vm.start()
    vm.stop()


def finished(world: World) -> None:
    """What its server has left, whenever it was killed, a person makes an ordinary VM of."""
    world.must(ADMIN, "boot", "--finish", TRIAL)
    world.tick()
    ordinary(world)


def unserved(world: World) -> None:
    """Its server has died: what has the name of a disk is whole."""
    end_servers(world)
    held(world)
    never_on_holes(world)


def nothing_served(world: World) -> None:
    """Nothing of a rehearsal is left, nor mounted; the VM of which the copy is was left alone."""
    nothing_rehearsed(world)
    assert not list(_mounted(world))
    never_on_holes(world)


def changed(world: World) -> None:
    """A VM with two disks was used since its copy."""
    world.notes_count = world.disks_count = True
    name = "a VM with two disks that is not what its copy holds"
    if world.recall(name):
        return
    vm = world.host.make_vm(VM, mib=4, random_mib=2)
    second = world.host.vms / f"{vm.uuid}-second.vdi"
    world.host.run("createmedium", "disk", "--filename", second, "--size", "4")
    words = ("--storagectl", "SATA", "--port", "1", "--type", "hdd", "--medium", second)
    world.host.run("storageattach", vm.uuid, *words)
    images.write(str(second), 1, os.urandom(images.BLOCK))
    world.initialise()
    world.must(WORKER, "vmfind")
    world.tick()
    kept = _on_disks(world)
    use(world)
    for disk in _disks(world):
        images.write(str(disk), 1, os.urandom(images.BLOCK))
    document = {"of the copy": kept, "of before": _on_disks(world)}
    _reference(world).write_text(json.dumps(document), encoding="utf-8")
    world.remember(name)


def taken_back(world: World) -> None:
    """It was taken back to its copy."""
    changed(world)
    world.must(*_INTO)


def known_anew(world: World) -> None:
    """Files have other inodes when the world was put back."""
    for note in swap_note.noted(world.notes):
        swap = note.read()
        assert swap
        disks = (
            replace(
                disk,
                before=disk_swap.inode_of(disk.old),
                after=disk_swap.inode_of(disk.place),
            )
            for disk in swap.disks
        )
        note.write(replace(swap, disks=tuple(disks)))


def all_or_none(world: World) -> None:
    """It has all old disks, or all new ones, or VirtualBox does not start it."""
    if all(disk.exists() for disk in _disks(world)):
        expected = json.loads(_reference(world).read_text(encoding="utf-8"))
        assert _on_disks(world) in expected.values(), "old and new disks together"
        return
    vm = machine(world)
    assert world.host.run("startvm", vm.uuid, "--type=headless", check=False).returncode != 0


def is_the_copy(world: World) -> None:
    """It is what its copy holds, and nothing else is left when that was said to be right."""
    all_or_none(world)
    expected = json.loads(_reference(world).read_text(encoding="utf-8"))
    assert _on_disks(world) == expected["of the copy"]
    if list(swap_note.noted(world.notes)):
        world.must(*_FINISH_INTO)
    assert sorted(path for path in world.host.vms.iterdir() if path.is_file()) == _disks(world)
    assert not list(swap_note.noted(world.notes))


def is_what_it_was(world: World) -> None:
    """It has its disks of before; where the command was killed before that, it is given again."""
    all_or_none(world)
    if list(swap_note.noted(world.notes)):
        world.must(*_UNDO_INTO)
    expected = json.loads(_reference(world).read_text(encoding="utf-8"))
    assert _on_disks(world) == expected["of before"]
    assert sorted(path for path in world.host.vms.iterdir() if path.is_file()) == _disks(world)
    assert not list(swap_note.noted(world.notes))


def _disks(world: World) -> list[Path]:
    disk = machine(world).disk
    return [disk.with_name(f"{disk.stem}-second.vdi"), disk]


def _on_disks(world: World) -> list[str]:
    """Digests of all that its guest sees on each disk."""
    found = []
    for path in _disks(world):
        with Chain.open([path]) as disk:
            found.append(hashlib.sha256(disk.beginning(disk.size)).hexdigest())
    return found


def _reference(world: World) -> Path:
    return world.host.folder / "on-disks.json"


_KIND: Final = {"ended": end_servers, "backup": {"engine": "parallel"}}

SCENARIOS: Final = (
    Scenario(
        "rehearse --boot from the copy",
        (ADMIN, "rehearse", VM, "--boot", "--wait", "1"),
        copied,
        {VM: "CLEAN"},
        (0, 11),
        every=60,
        settled=nothing_served,
        **_KIND,
    ),
    Scenario(
        "boot",
        _BOOT,
        copied,
        {VM: "CLEAN"},
        (ExitCode.DONE, ExitCode.USAGE),
        every=36,
        orphans=frozenset({TRIAL}),
        at_once=never_on_holes,
        settled=runs_held,
        **_KIND,
    ),
    Scenario(
        "boot goes on",
        (ADMIN, "boot", VM, "--as", TRIAL),
        begun,
        {VM: "CLEAN"},
        (ExitCode.DONE, ExitCode.USAGE),
        every=40,
        orphans=frozenset({TRIAL}),
        at_once=held,
        settled=runs_held,
        **_KIND,
    ),
    Scenario(
        "boot --finish",
        (ADMIN, "boot", "--finish", TRIAL),
        left_alone,
        {VM: "CLEAN", TRIAL: "CLEAN"},
        (ExitCode.DONE, ExitCode.USAGE),
        every=36,
        at_once=never_on_holes,
        settled=ordinary,
        **_KIND,
    ),
    Scenario(
        "the server of disks, while it fills and settles",
        ("disk server", TRIAL),
        begun,
        {VM: "CLEAN", TRIAL: "CLEAN"},
        every=36,
        at_once=unserved,
        settled=finished,
        **_KIND,
    ),
    Scenario(
        "boot --discard",
        (ADMIN, "boot", "--discard", TRIAL, "--yes"),
        left_alone,
        {VM: "CLEAN"},
        (ExitCode.DONE, ExitCode.USAGE),
        every=36,
        at_once=never_on_holes,
        settled=nothing_booted,
        **_KIND,
    ),
    Scenario(
        "restore --into",
        _INTO,
        changed,
        {VM: "CLEAN"},
        (ExitCode.DONE, ExitCode.STATE_REFUSED),
        every=44,
        at_once=all_or_none,
        settled=is_the_copy,
        **_KIND,
    ),
    Scenario(
        "restore --into --undo",
        _UNDO_INTO,
        taken_back,
        {VM: "CLEAN"},
        (ExitCode.DONE, ExitCode.STATE_REFUSED),
        every=20,
        at_once=all_or_none,
        settled=is_what_it_was,
        put_back=known_anew,
        **_KIND,
    ),
    Scenario(
        "restore --into --finish",
        _FINISH_INTO,
        taken_back,
        {VM: "CLEAN"},
        (ExitCode.DONE, ExitCode.STATE_REFUSED),
        every=3,
        at_once=all_or_none,
        settled=is_the_copy,
        put_back=known_anew,
        **_KIND,
    ),
)
