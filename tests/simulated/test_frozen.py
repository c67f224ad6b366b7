"""A VM whose images are frozen may be used a second after its backup began.

Its copy is that of the moment at which it was frozen, whatever becomes of the VM meanwhile.
"""

import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.copies.names import final_name
from shared.export import engine
from shared.frozen.directory import CloneDirectory, known_directories
from shared.frozen.kept_clones import KeptClones, KeptNote
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.store import CloneStore
from shared.host.errors import CopyError, VBoxManageError
from shared.state.records import Claim
from shared.state.states import State
from tests.simulated.conftest import Rig
from tests.simulated.test_policies import sidecar
from tests.support.disk_files import VmdkReader
from tests.support.file_systems import mounted
from tests.support.packages import require
from tests.support.simulated.host import SimulatedVm
from worker import clone_sweep, notifier, vmfind
from worker.backup import export
from worker.backup import worker as backup

pytestmark = pytest.mark.slow


@pytest.fixture
def xfs(tmp_path: Path, probe_in_this_process: None) -> Iterator[Rig]:
    """One of them will do."""
    with mounted("xfs", tmp_path) as place:
        yield Rig(place)


def while_it_is_exported(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Does something once, after the locks were let go and before the first block is copied."""
    right, done = engine.match_disks, threading.Event()

    def match(*arguments: object) -> object:
        if not done.is_set():
            done.set()
            action()
        return right(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "match_disks", match)


def run(rig: Rig, **settings: object) -> None:
    site = rig.site(**{"engine": "parallel", "changed": "auto", **settings})
    for worker in (vmfind, notifier, backup):
        worker.run(site)  # type: ignore[attr-defined]


def raw(disk: Path, folder: Path) -> bytes:
    """What qemu-img reads from a copy of the disk that `cp` made."""
    copied, target = folder / "oracle.vdi", folder / "oracle.raw"
    subprocess.run(["cp", "--reflink=never", disk, copied], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", copied, target], check=True)
    return target.read_bytes()


def copied(rig: Rig, key: str) -> bytes:
    """The disk in the newest copy."""
    ova = rig.nas / rig.record(key).directory / final_name(sidecar(rig, key).stamp, "ova")
    with tarfile.open(ova) as archive:
        (member,) = (entry for entry in archive if entry.name.endswith(".vmdk"))
        file = archive.extractfile(member)
        assert file is not None
        reader = VmdkReader(file.read())
    return reader.disk(reader.capacity * 512)


def litter(rig: Rig) -> list[Path]:
    """Clones, directories for them, and notes of those, but for what serves the next copy."""
    found = [*rig.folder.rglob("*.frozen"), *rig.folder.rglob(".vmbackup")]
    found += rig.folder.glob("state-*/frozen/*")
    kept = kept_clones(rig)
    if kept is None:
        return found
    assert all(path.exists() for path in kept.paths)
    return [path for path in found if path.suffix == ".frozen" and path not in kept.paths]


def kept_clones(rig: Rig, key: str = "web01") -> KeptClones | None:
    """What is kept for the next copy."""
    site = rig.site()
    record = site.database.head().contents.vms.get(key)
    notes = list((rig.folder / "state-alpha" / "frozen").glob("*.kept"))
    if record is None:
        assert notes == []
        return None
    state = site.configuration.host.state_directory
    return KeptNote(state, site.database.version.repository, record.uuid).read()


def used(vm: SimulatedVm) -> None:
    vm.start()
    vm.stop()


@pytest.mark.parametrize(
    ("kind", "what", "state"),
    [
        ("xfs", "nothing", State.CLEAN),
        ("btrfs", "starts", State.RUNNING),
        ("btrfs-compressed", "is used", State.BACKUP_NECESSARY),
    ],
)
def test_the_copy_is_that_of_the_moment_and_the_vm_is_what_it_is_now(
    tmp_path: Path,
    probe_in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    what: str,
    state: State,
) -> None:
    require("qemu-img", "qemu-utils")
    with mounted(kind, tmp_path) as place:
        _copy_of_the_moment(Rig(place), tmp_path, monkeypatch, what, state)


def _copy_of_the_moment(
    frozen: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, state: State
) -> None:
    vm = frozen.host().make_vm("web01")
    used(vm)
    expected = raw(vm.disk, tmp_path)
    actions = {"nothing": lambda: None, "starts": vm.start, "is used": lambda: used(vm)}
    while_it_is_exported(monkeypatch, actions[what])
    run(frozen)
    record = frozen.record("web01")
    assert (record.status, record.failures, record.claim) == (state, 0, None)
    made = sidecar(frozen, "web01")
    assert (made.frozen, made.engine, made.engine_reason) == (True, "parallel", "")
    assert copied(frozen, "web01") == expected
    assert litter(frozen) == []
    if what == "starts":
        vm.stop()
    monkeypatch.undo()
    run(frozen)
    assert frozen.record("web01").status == State.CLEAN
    assert len([name for name in frozen.files("web01") if name.endswith(".ova")]) == (
        1 if what == "nothing" else 2
    )
    assert copied(frozen, "web01") == raw(vm.disk, tmp_path)


def test_the_fingerprint_and_the_side_files_are_those_of_the_moment(
    xfs: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the memory of a saved VM, which VirtualBox deletes when it goes on."""
    vm = xfs.host().make_vm("web01")
    vm.start()
    xfs.host().run("controlvm", vm.uuid, "savestate")
    settings = vm.settings.read_bytes()
    (memory,) = list(vm.settings.parent.rglob("*.sav"))
    saved = memory.read_bytes()

    def go_on() -> None:
        vm.start()
        memory.unlink()
        vm.settings.with_suffix(".nvram").write_bytes(b"new")

    vm.settings.with_suffix(".nvram").write_bytes(b"variables")
    while_it_is_exported(monkeypatch, go_on)
    run(xfs)
    assert xfs.record("web01").status == State.RUNNING
    made = sidecar(xfs, "web01")
    assert (made.fingerprint["state"], made.frozen) == ("saved", True)
    directory = xfs.nas / xfs.record("web01").directory
    assert (directory / final_name(made.stamp, "sav")).read_bytes() == saved
    assert (directory / final_name(made.stamp, "nvram")).read_bytes() == b"variables"
    assert (directory / final_name(made.stamp, "vbox")).read_bytes() == settings
    assert litter(xfs) == []


@pytest.mark.parametrize("why", ["off", "no reflinks", "short of room"])
def test_where_it_cannot_be_frozen_it_is_locked_as_long_as_it_is_read(
    tmp_path: Path,
    probe_in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    why: str,
) -> None:
    caplog.set_level("INFO")
    with mounted("ext4" if why == "no reflinks" else "xfs", tmp_path) as place:
        rig = Rig(place)
        vm = rig.host().make_vm("web01")
        started = []
        while_it_is_exported(
            monkeypatch,
            lambda: started.append(rig.host().run("startvm", vm.uuid, check=False).returncode),
        )
        more = {"off": {"changed": "off"}, "short of room": {"clone_free": 100}}.get(why, {})
        run(rig, **more)
        assert started == [1], "VirtualBox refuses"
        assert rig.record("web01").status == State.CLEAN
        assert not sidecar(rig, "web01").frozen
        assert ("not frozen: " in caplog.text) == (why != "off")
        assert litter(rig) == []


def test_a_vm_that_changes_while_it_is_frozen_has_no_copy(
    xfs: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings, which no lock protects. And VirtualBox is not asked to try instead."""
    vm = xfs.host().make_vm("web01")
    right = CloneStore.clone

    def clone(store: CloneStore, source: Path) -> Path:
        xfs.host().run("modifyvm", vm.uuid, "--memory", "32")
        return right(store, source)

    monkeypatch.setattr(CloneStore, "clone", clone)
    run(xfs)
    record = xfs.record("web01")
    assert record.status == State.BACKUP_NECESSARY
    assert "the VM changed during the export" in record.last_error
    assert xfs.files("web01") == litter(xfs) == []
    monkeypatch.undo()
    run(xfs)
    assert xfs.record("web01").status == State.CLEAN


def test_a_disk_that_cannot_be_cloned_after_others_were_is_locked_and_the_others_are_removed(
    xfs: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = xfs.host().make_vm("web01")
    xfs.host().run("snapshot", vm.uuid, "take", "first")
    right, made = CloneStore.clone, []

    def clone(store: CloneStore, source: Path) -> Path:
        if made:
            raise NotFrozenError("a fault")
        made.append(right(store, source))
        return made[0]

    monkeypatch.setattr(CloneStore, "clone", clone)
    run(xfs)
    assert made
    assert xfs.record("web01").status == State.CLEAN
    assert not sidecar(xfs, "web01").frozen
    assert litter(xfs) == []


def test_a_clone_that_somebody_touches_voids_the_copy(
    xfs: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VirtualBox exports the VM then, if it is still off."""
    xfs.host().make_vm("web01")

    def touch() -> None:
        (found,) = xfs.folder.rglob("*.frozen")
        with found.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"!")

    while_it_is_exported(monkeypatch, touch)
    run(xfs, engine="auto")
    made = sidecar(xfs, "web01")
    assert (made.engine, made.frozen) == ("vboxmanage", False)
    assert "was changed while it was read" in made.engine_reason
    assert litter(xfs) == []


def test_a_host_that_runs_short_of_room_gives_the_clones_up_and_the_vm_waits(
    xfs: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = xfs.host().make_vm("web01")

    def fill() -> None:
        (xfs.folder / "others").write_bytes(bytes(250 << 20))
        vm.start()

    while_it_is_exported(monkeypatch, fill)
    run(xfs, clone_free=50)
    record = xfs.record("web01")
    assert record.status == State.BACKUP_NECESSARY
    assert "runs short of room" in record.last_error
    assert xfs.files("web01") == litter(xfs) == []


def test_a_fault_after_the_vm_was_started_leaves_it_for_a_later_tick(
    xfs: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not exported while it runs, and not stopped for it."""
    vm = xfs.host().make_vm("web01")
    while_it_is_exported(monkeypatch, vm.start)
    error = CopyError("it arrived wrong")
    monkeypatch.setattr(export, "check", lambda *_: (_ for _ in ()).throw(error))
    run(xfs, engine="auto")
    assert xfs.record("web01").status == State.RUNNING
    assert xfs.files("web01") == litter(xfs) == []


def test_what_a_worker_that_died_left_is_swept(xfs: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its VM was deleted since; and not while its claim lives."""
    vm = xfs.host().make_vm("web01")
    for name in ("keep", "discard"):
        monkeypatch.setattr(CloneStore, name, lambda *_: None)
    run(xfs)
    monkeypatch.undo()
    left = litter(xfs)
    assert left
    record = xfs.record("web01")
    claim = Claim("a session", record.last_copy.claim, "backup", "2026-11-22T20:38:00Z")  # type: ignore[union-attr]
    site = xfs.site(changed="auto")
    contents = site.database.head().contents
    held = replace(contents, vms={"web01": replace(record, claim=claim)})
    older = replace(contents, claims_granted=contents.claims_granted - 1)
    for seen in (held, older):
        with monkeypatch.context() as patched:
            head = replace(site.database.head(), contents=seen)
            patched.setattr(type(site.database), "head", lambda _, head=head: head)
            clone_sweep.sweep(site)
        assert litter(xfs) == left
    xfs.host().run("unregistervm", vm.uuid, "--delete")
    clone_sweep.sweep(xfs.site())
    assert litter(xfs) == []


def test_the_clones_of_a_vm_that_was_renamed_are_followed(
    xfs: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VirtualBox moves its folder, and what is in there with it."""
    vm = xfs.host().make_vm("web01")
    run(xfs)
    (before,) = known(xfs)
    assert list(before.clones())
    xfs.host().run("modifyvm", vm.uuid, "--name", "mail")
    site = xfs.site(changed="auto")

    def hangs() -> object:
        raise VBoxManageError("it hangs")

    with monkeypatch.context() as patched:
        patched.setattr(site, "inventory", hangs)
        clone_sweep.sweep(site)
    assert known(xfs) == [before], "nothing is forgotten"
    for _ in range(2):
        clone_sweep.sweep(site)
    assert litter(xfs) == []
    assert known(xfs) == []


def known(rig: Rig) -> list[CloneDirectory]:
    """The directories with clones that the host has noted."""
    site = rig.site()
    state = site.configuration.host.state_directory
    return list(known_directories(state, site.database.version.repository))
