"""Rehearsals whose VM runs from its copy: real FUSE, and a guest that reads its disk."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from shared.copies import catalogue, sidecar_files
from shared.copies.copy_files import NasFiles
from shared.copies.sidecar_fields import Rehearsed
from shared.host.errors import CopyError, VBoxManageError
from shared.host.process_identity import ProcessIdentity, wait_until_gone
from shared.ova.disk import Chain
from shared.serving import places, starting
from shared.site import Site
from shared.tasks import import_leftovers, rehearsal, rehearsal_trial
from shared.tasks.import_note import ImportNote
from shared.virtualbox.boot_check import BootCheck, Observation
from shared.virtualbox.storage import files_of
from tests.simulated.conftest import Rig
from tests.simulated.test_restore import Killed, listed, rehearse
from tests.simulated.test_unlisted import admin
from tests.simulated.test_verify import damage
from tests.support.simulated import SimulatedVm
from tests.unit.coordinator.test_mounting import fuse
from worker import database, rehearsals, verify
from worker.backup import worker as backup

assert fuse
pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def vm(rig: Rig) -> SimulatedVm:
    """A VM with a copy of a real disk."""
    made = rig.host().make_vm("web01", mib=6, random_mib=3)
    rig.look()
    assert backup.run(rig.site(engine="parallel")).done == ["web01"]
    return made


def mounts(rig: Rig) -> list[str]:
    real = os.path.realpath(rig.folder)
    return [found.place for found in places.mounted() if found.place.startswith(real)]


def left(rig: Rig, node: str = "alpha") -> list[str]:
    """What is left of rehearsals on a host: mounts, folders, notes."""
    state = rig.folder / f"state-{node}"
    found = [*state.glob("rehearsals/*"), *state.glob("rehearsal-*.json")]
    return mounts(rig) + [str(path) for path in found]


def base_of(check: BootCheck) -> Path:
    """The raw file that the only disk of a VM on trial stands on."""
    (chain,) = check.machine.chains
    return Path(list(files_of(chain[-1]))[-1])


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[BootCheck], Observation]], None]:
    """Says what is done in place of a start."""

    def change(work: Callable[[BootCheck], Observation]) -> None:
        monkeypatch.setattr(BootCheck, "start_and_watch", lambda self, _seconds: work(self))

    return change


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[ProcessIdentity]:
    """Whatever is started to serve a copy."""
    found, real = list[ProcessIdentity](), starting.start

    def start(*arguments: Any, **more: Any) -> starting.Started:
        begun = real(*arguments, **more)
        identity = ProcessIdentity.of(begun.pid)
        assert identity is not None
        found.append(identity)
        return begun

    monkeypatch.setattr(starting, "start", start)
    return found


def is_served(check: BootCheck) -> bool:
    return check.machine.chains[0][-1].format == "VMDK"


def test_it_runs_from_the_copy_reads_what_was_backed_up_and_leaves_nothing(
    rig: Rig, vm: SimulatedVm, guest: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Chain.open([vm.disk]) as disk:
        wanted = disk.beginning(disk.size)
    site, saw = rig.site(), dict[str, Any]()

    def look(check: BootCheck) -> Observation:
        raw = base_of(check)
        saw["same"] = raw.read_bytes() == wanted
        saw["read-only"] = os.access(raw, os.W_OK) is False or raw.stat().st_mode & 0o222 == 0
        saw["taken"] = sum(
            path.stat().st_blocks * 512
            for path in raw.parent.parent.rglob("*")
            if not path.is_relative_to(raw.parent)
        )
        rows = site.database.head().contents.sessions.values()
        saw["reads"] = [row.reads for row in rows if row.state == "live" and row.reads]
        return Observation("it read its disk")

    def never(*_arguments: object) -> None:
        raise AssertionError("nothing is imported or read in full")

    guest(look)
    monkeypatch.setattr(rehearsal_trial, "make", never)
    monkeypatch.setattr(rehearsal.verification, "verify_copy", never)
    copy = catalogue.read(rig.nas / "web01", None).good[-1]
    done = rehearse(site, boot=True)
    assert (done.good, done.recorded, done.result.imported_because) == (True, True, "")
    assert done.result.observed == "it read its disk"
    assert (saw["same"], saw["read-only"]) == (True, True)
    assert saw["reads"] == [f"{rig.record('web01').uuid}/{copy.stamp}"]
    assert saw["taken"] < 1 << 20, "nothing of the disk is on this host"
    assert (left(rig), listed(site)) == ([], ["web01"])


def test_it_is_read_in_full_and_imported_where_that_is_wanted_or_nothing_can_be_served(
    rig: Rig, vm: SimulatedVm, guest: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = []

    def look(check: BootCheck) -> Observation:
        ways.append(is_served(check))
        return Observation("it ran")

    guest(look)
    words = ("rehearse", "web01", "--boot", "--json")
    planned = json.loads(admin(rig, *words, "--dry-run").stdout)
    assert (planned["imported"], planned["imported_because"]) == (False, "")
    full = json.loads(admin(rig, *words, "--full").stdout)
    assert (full["good"], full["imported_because"]) == (True, "")
    assert json.loads(admin(rig, *words).stdout)["imported_because"] == ""
    lacking = partial(places.require_fuse, str(rig.folder / "no-fuse"))
    monkeypatch.setattr(places, "require_fuse", lacking)
    assert "no-fuse is not there" in admin(rig, *words[:-1], "--dry-run").stdout
    without = admin(rig, *words[:-1]).stdout
    assert "VirtualBox imported it: " in without
    assert "no-fuse is not there" in without
    assert ways == [False, True, False]
    assert left(rig) == []
    assert "not from the copy alone: " in admin(rig, "show", "web01").stdout


@pytest.mark.parametrize("result", ["cannot be imported", "damaged: its disk"])
def test_one_that_was_refused_before_its_start_is_imported_again(
    rig: Rig, vm: SimulatedVm, guest: Callable[..., None], result: str
) -> None:
    """That it runs from the copy would hide what was found, and says nothing of it."""
    guest(lambda check: Observation("served" if is_served(check) else "imported"))
    (copy,) = catalogue.read(rig.nas / "web01", None).good
    assert copy.sidecar is not None
    refused = Rehearsed("2026-11-22T08:00:00Z", "beta", result, "", booted=False)
    sidecar_files.replace(
        NasFiles(), rig.nas / "web01", replace(copy.sidecar, rehearsed=refused), 99
    )
    (copy,) = catalogue.read(rig.nas / "web01", None).good
    assert rehearsal.needed_bytes(copy) > 0
    done = rehearse(rig.site(), boot=True)
    assert (done.good, done.result.observed) == (True, "imported")
    assert done.result.imported_because == f"it did not get to its start on 2026-11-22: {result}"
    assert rehearse(rig.site(), boot=True).result.observed == "served"


def test_a_copy_that_is_damaged_where_the_guest_reads_does_not_count_as_come_up(
    rig: Rig, vm: SimulatedVm, guest: Callable[..., None]
) -> None:
    def look(check: BootCheck) -> Observation:
        with pytest.raises(OSError, match=r"Input/output|not connected|abort|Software"):
            base_of(check).read_bytes()
        return Observation("it ran on and used the processor")

    guest(look)
    stamp = catalogue.read(rig.nas / "web01", None).good[-1].stamp
    damage(rig, "web01", stamp)
    done = rehearse(rig.site(), boot=True)
    assert done.result.result.startswith("damaged: ")
    assert done.result.imported_because == (
        "it did not come up from the copy: its disks cannot be read"
    )
    assert rig.record("web01").damaged == (stamp,)
    assert (left(rig), listed(rig.site())) == ([], ["web01"])


def test_before_it_is_said_that_it_does_not_come_up_it_is_imported(
    rig: Rig, vm: SimulatedVm, guest: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest(lambda check: Observation("", "it did nothing" if is_served(check) else ""))
    site = rig.site()
    done = rehearse(site, boot=True)
    why = "it did not come up from the copy: it did nothing"
    assert (done.result.result, done.result.imported_because) == ("good", why)
    real, faults = import_leftovers.remove, [None]

    def remove(site: Site, note: ImportNote) -> None:
        if faults:
            faults.pop()  # VirtualBox does not answer for once
        else:
            real(site, note)

    with monkeypatch.context() as context:
        context.setattr(import_leftovers, "remove", remove)
        assert rehearse(site, boot=True).good
    assert (faults, left(rig), listed(site)) == ([], [], ["web01"])
    usage = shutil.disk_usage(rig.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(CopyError, match="there is no room for the VM"):
        rehearse(site, boot=True)
    rooms = cycle([1 << 40, 1000])  # to be served from the copy there is room, and then no more
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=next(rooms)))
    with pytest.raises(CopyError, match=rf"imported \({why}\), but there is no room"):
        rehearse(site, boot=True)
    damage(rig, "web01", done.stamp)
    assert rehearse(site, boot=True).result.result.startswith("damaged: "), "that needs no room"
    assert (left(rig), listed(site)) == ([], ["web01"])


def test_where_the_mount_is_refused_it_is_imported_and_a_fault_of_the_host_is_raised_at_once(
    rig: Rig, vm: SimulatedVm, guest: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_more: object) -> starting.Started:
        raise starting.MountError("fusermount3: mount failed: Operation not permitted")

    def without_driver(check: BootCheck) -> Observation:
        raise VBoxManageError("startvm failed: Kernel driver not installed (rc=-1908)")

    guest(lambda check: Observation("it was imported" if not is_served(check) else "it ran"))
    with monkeypatch.context() as context:
        context.setattr(starting, "start", refuse)
        done = rehearse(rig.site(), boot=True)
    assert (done.good, done.result.imported_because) == (
        True,
        "fusermount3: mount failed: Operation not permitted",
    )
    guest(without_driver)
    with pytest.raises(VBoxManageError, match="Kernel driver"):
        rehearse(rig.site(), boot=True)
    assert (left(rig), listed(rig.site())) == ([], ["web01"])


@pytest.mark.parametrize("server", ["lives", "killed"])
def test_what_a_killed_one_left_goes_with_its_mount(
    rig: Rig,
    vm: SimulatedVm,
    guest: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    servers: list[ProcessIdentity],
    server: str,
) -> None:
    def die(check: BootCheck) -> Observation:
        rig.host().run("startvm", check.machine.uuid, "--type=headless")
        raise Killed

    guest(die)
    site = rig.site()
    with monkeypatch.context() as context:
        context.setattr(import_leftovers, "remove", lambda _site, _note: None)
        with pytest.raises(Killed):
            rehearse(site, boot=True)
    assert (len(mounts(rig)), len(listed(site))) == (1, 2)
    (found,) = servers
    if server == "killed":
        os.kill(found.pid, signal.SIGKILL)
        assert wait_until_gone(found, timeout_seconds=30)
    assert database.run(site).failed == []
    assert (left(rig), listed(site)) == ([], ["web01"])
    assert wait_until_gone(found, timeout_seconds=30)


def test_by_schedule_it_needs_no_room_for_the_disk(
    rig: Rig, vm: SimulatedVm, guest: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest(lambda check: Observation("it ran" if is_served(check) else "it was imported"))
    memory = SimpleNamespace(available=64 << 30, total=64 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    free = rehearsals.SPARE_BYTES + 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    site = rig.site(rehearse_days=30, rehearse_seconds=1)
    assert verify.run(site).done == ["web01"]
    copy = catalogue.read(rig.nas / "web01", None).good[-1]
    assert copy.sidecar
    assert copy.sidecar.rehearsed
    assert copy.sidecar.rehearsed.observed == "it ran"
    lacking = partial(places.require_fuse, str(rig.folder / "no-fuse"))
    monkeypatch.setattr(places, "require_fuse", lacking)
    assert "there is no room" in rehearsals.unfit(site, copy)
