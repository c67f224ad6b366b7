"""A VM is taken back to a copy in place: whom that is refused, and what a kill leaves."""

import contextlib
import errno
import json
import os
import shutil
import struct
import tarfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.restore import in_place_disks, in_place_settling, in_place_unnoted
from shared.frozen.store import RoomLimit
from shared.host.errors import ConfigurationError, CopyError, ExitCode, NasError
from shared.ova.disk import Chain
from shared.state.contents import Contents
from shared.state.records import Power
from shared.state.rules import claims
from shared.state.sessions.holding import Holding
from shared.state.states import State
from shared.tasks.archiving import archive
from shared.tasks.swap_note import Swap, SwapNote
from tests.simulated.conftest import Rig
from tests.simulated.test_unlisted import admin, ask
from tests.simulated.test_verify import damage
from tests.support.copies import tar_file
from tests.support.simulated import disks as images
from tests.support.simulated.host import SimulatedVm
from worker import database, notifier
from worker.backup import worker as backup

DISCARD = "--discard-present-state"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rig, SimulatedVm]:
    """A VM with two disks, and a copy of it; it was not used since. All of it is kept."""
    folder = tmp_path_factory.mktemp("into")
    (folder / "here").mkdir()
    rig = Rig(folder / "here")
    vm = rig.host().make_vm("web01", random_mib=3)
    add_disk(vm, "SATA", 1)
    back_up(rig)
    shutil.copytree(rig.folder, folder / "kept")
    return rig, vm


@pytest.fixture
def rig(made: tuple[Rig, SimulatedVm]) -> Rig:
    """The same hosts and NAS, as they were made."""
    folder = made[0].folder
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("kept"), folder)
    made[0].hosts = {"alpha": made[0].hosts["alpha"]}
    return made[0]


@pytest.fixture
def vm(made: tuple[Rig, SimulatedVm]) -> SimulatedVm:
    """The VM."""
    return made[1]


def back_up(rig: Rig) -> None:
    rig.look()
    assert backup.run(rig.site(engine="parallel")).done == ["web01"]


def add_disk(vm: SimulatedVm, controller: str, port: int, mib: int = 4) -> Path:
    path = vm.host.vms / f"{vm.uuid}-{controller}-{port}.vdi"
    vm.host.run("createmedium", "disk", "--filename", path, "--size", str(mib))
    vm.host.run(
        *("storageattach", vm.uuid, "--storagectl", controller, "--port", str(port)),
        *("--type", "hdd", "--medium", path),
    )
    return path


def used(vm: SimulatedVm) -> None:
    """Its guest has written, and it is off again."""
    vm.start()
    vm.stop()
    images.write(str(vm.disk), 2, os.urandom(images.BLOCK))


def disks(vm: SimulatedVm) -> dict[str, bytes]:
    """What lies beside its disks, the disks included: contents by name."""
    return {path.name: path.read_bytes() for path in vm.host.vms.iterdir() if path.is_file()}


def contents(vm: SimulatedVm) -> list[bytes]:
    """What its guest sees on each of its disks."""
    found = []
    for path in sorted(vm.host.vms.glob(f"{vm.uuid}*.vdi")):
        with Chain.open([path]) as chain:
            found.append(chain.beginning(chain.size))
    return found


def test_it_is_what_it_was_at_the_copy_and_is_backed_up_again(rig: Rig, vm: SimulatedVm) -> None:
    newest = contents(vm)
    used(vm)
    before, present = disks(vm), contents(vm)
    assert newest != present
    done = ask(rig, "restore", "--into", "web01", DISCARD)
    assert contents(vm) == newest
    assert vm.info("VMState") == "poweroff"
    kept = [Path(path) for path in done["old_disks"]]  # type: ignore[attr-defined]
    assert {path.read_bytes() for path in kept} == {
        data for name, data in before.items() if name.endswith(".vdi")
    }
    record = rig.record("web01")
    assert (record.status, record.claim) == (State.BACKUP_NECESSARY, None)
    assert record.restored is not None
    assert (record.restored.uuid, record.restored.stamp) == (vm.uuid, done["stamp"])

    result = admin(rig, "restore", "--into", "web01", "--finish", "--dry-run")
    assert "would remove" in result.stdout
    assert all(path.exists() for path in kept)
    admin(rig, "restore", "--into", "web01", "--finish")
    assert disks(vm).keys() == before.keys()
    assert contents(vm) == newest
    again = admin(rig, "restore", "--into", "web01", "--finish")
    assert f"was taken back to {done['stamp']}" in again.stdout  # type: ignore[index]
    assert "is finished: none of its disks of before is kept" in again.stdout
    back_up(rig)
    assert rig.record("web01").status == State.CLEAN
    used(vm)
    assert contents(vm) != newest, "its guest goes on"


def test_disks_of_before_that_no_note_knows_are_told_of(rig: Rig, vm: SimulatedVm) -> None:
    used(vm)
    kept = ask(rig, "restore", "--into", "web01", DISCARD)["old_disks"]
    assert isinstance(kept, list)
    state, aside = rig.folder / "state-alpha", rig.folder / "aside"
    doctor = [check for check in ask(rig, "doctor")["checks"] if "of one: " in check["seen"]]  # type: ignore[attr-defined]
    assert not doctor, "they are noted"
    state.rename(aside)
    for words in ((), ("--dry-run",)):
        refused = admin(rig, "restore", "--into", "web01", "--finish", *words)
        assert refused.exit_code == ExitCode.STATE_REFUSED
        assert f"nothing is noted in {state} of a restore of web01 in place" in refused.stderr
        assert all(path in refused.stderr for path in kept)
        assert "put it back" in refused.stderr
    (check,) = (check for check in ask(rig, "doctor")["checks"] if "of one: " in check["seen"])  # type: ignore[attr-defined]
    assert (check["name"], check["verdict"]) == ("taken back in place", "warn")
    assert all(path in check["seen"] for path in kept)
    shutil.rmtree(state)
    aside.rename(state)
    assert admin(rig, "restore", "--into", "web01", "--finish").exit_code == 0


def test_a_disk_of_before_that_another_vm_has_is_not_called_one_to_delete(
    rig: Rig, vm: SimulatedVm
) -> None:
    mine, other = (rig.site().machine(uuid) for uuid in (vm.uuid, rig.host().make_vm("db").uuid))
    assert mine is not None
    assert other is not None
    old = Path(f"{mine.images[0].location}.{'0' * 32}.vmbackup-old")
    old.touch()
    state = rig.folder / "state-alpha"
    assert in_place_unnoted.beside(mine, [other], state) == [str(old)]
    image = replace(other.images[0], location=str(old))
    assert in_place_unnoted.beside(mine, [replace(other, chains=((image,),))], state) == []


def test_what_is_noted_of_a_vm_that_was_deleted_ends_when_its_old_disks_are_gone(
    rig: Rig, vm: SimulatedVm
) -> None:
    used(vm)
    kept = [Path(path) for path in ask(rig, "restore", "--into", "web01", DISCARD)["old_disks"]]  # type: ignore[attr-defined]
    vm.host.run("unregistervm", vm.uuid, "--delete")
    for words in ((), ("--dry-run",)):
        refused = admin(rig, "restore", "--into", "web01", "--finish", *words)
        assert refused.exit_code == ExitCode.STATE_REFUSED
        assert "may be the only ones" in refused.stderr
    assert all(path.exists() for path in kept)
    for path in kept:
        path.unlink()
    assert "none is left" in admin(rig, "restore", "--into", "web01", "--finish").stdout
    assert "that is finished" in admin(rig, "restore", "--into", "web01", "--finish").stdout


@pytest.mark.parametrize("copies", ["there", "gone"])
@pytest.mark.parametrize("deleted", [False, True])
def test_what_is_noted_of_a_vm_that_was_forgotten_can_be_ended(
    rig: Rig, vm: SimulatedVm, copies: str, deleted: bool
) -> None:
    """At d4504a4 nothing ended it where no copies were left, and `status` told it for ever."""
    used(vm)
    kept = [Path(path) for path in ask(rig, "restore", "--into", "web01", DISCARD)["old_disks"]]  # type: ignore[attr-defined]
    stamp = ask(rig, "status")["taken_back"][0]["stamp"]  # type: ignore[attr-defined]
    told = admin(rig, "forget", "web01").stderr
    assert f"restore --into --finish {vm.uuid}" in told
    if copies == "gone":
        shutil.rmtree(rig.nas / "web01")
    if deleted:
        vm.host.run("unregistervm", vm.uuid)
        for path in kept:
            path.unlink()
    assert f"restore --into --finish {vm.uuid}" in admin(rig, "status").stdout
    name = vm.uuid if copies == "there" else "web01"
    for words in (("--dry-run",), ()):
        done = admin(rig, "restore", "--into", name, "--finish", *words)
        assert (done.exit_code, stamp in done.stdout) == (0, True), done.stderr
    assert not any(path.exists() for path in kept)
    assert "taken back" not in admin(rig, "status").stdout
    again = admin(rig, "restore", "--into", name, "--finish")
    assert again.exit_code in (ExitCode.USAGE, ExitCode.STATE_REFUSED)


@pytest.mark.parametrize("which", ["previous", "latest"])
def test_the_notifier_by_itself_finds_that_it_is_not_what_was_backed_up(
    rig: Rig, vm: SimulatedVm, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the command is killed before it has told the database."""
    used(vm)
    back_up(rig)
    monkeypatch.setattr(in_place_settling, "record_it", lambda *_: None)
    result = admin(rig, "restore", "--into", "web01", "--copy", which)
    assert result.exit_code == 0, result.output
    assert rig.record("web01").status == State.CLEAN
    notifier.run(rig.site())
    assert rig.record("web01").status == State.BACKUP_NECESSARY
    assert vm.info("VMState") == "poweroff"


def rewritten(path: Path, **fields: int) -> None:
    """Changes the header of an image."""
    places = {"kind": 0x4C}
    with path.open("r+b") as file:
        for name, value in fields.items():
            file.seek(places[name])
            file.write(struct.pack("<I", value))


def snapshot(_rig: Rig, vm: SimulatedVm) -> None:
    vm.host.run("snapshot", vm.uuid, "take", "before")


def second_vm(rig: Rig, vm: SimulatedVm) -> None:
    other = rig.host().make_vm("other")
    vm.host.run(
        *("storageattach", other.uuid, "--storagectl", "SATA", "--port", "2", "--type", "hdd"),
        *("--medium", vm.disk),
    )


def detached(_rig: Rig, vm: SimulatedVm) -> None:
    words = ("--storagectl", "SATA", "--port", "1", "--medium", "none")
    vm.host.run("storageattach", vm.uuid, *words)


def elsewhere(_rig: Rig, vm: SimulatedVm) -> None:
    detached(_rig, vm)
    path = vm.host.vms / f"{vm.uuid}-SATA-1.vdi"
    words = ("--storagectl", "SATA", "--port", "3", "--type", "hdd", "--medium", str(path))
    vm.host.run("storageattach", vm.uuid, *words)


def another_disk(_rig: Rig, vm: SimulatedVm) -> None:
    add_disk(vm, "SATA", 2)


def larger(_rig: Rig, vm: SimulatedVm) -> None:
    detached(_rig, vm)
    vm.host.run("closemedium", "disk", vm.host.vms / f"{vm.uuid}-SATA-1.vdi", "--delete")
    add_disk(vm, "SATA", 1, mib=5)


def immutable(_rig: Rig, vm: SimulatedVm) -> None:
    detached(_rig, vm)
    path = vm.host.vms / f"{vm.uuid}-SATA-1.vdi"
    vm.host.run(
        *("storageattach", vm.uuid, "--storagectl", "SATA", "--port", "1", "--type", "hdd"),
        *("--medium", path, "--mtype", "writethrough"),
    )


def saved(_rig: Rig, vm: SimulatedVm) -> None:
    vm.start()
    vm.host.run("controlvm", vm.uuid, "savestate")


def paused(_rig: Rig, vm: SimulatedVm) -> None:
    vm.start()
    vm.host.run("controlvm", vm.uuid, "pause")


@contextlib.contextmanager
def claimed(rig: Rig, _vm: SimulatedVm) -> Iterator[None]:
    with rig.site().database.session("other") as session:
        session.claim(
            lambda contents: claims.grant(contents, "web01", session.id, "verify", "now"), "test"
        )
        yield


def begun(**what: object) -> Callable[[Rig, SimulatedVm], object]:
    """Something that a worker began which died."""

    def change(contents: Contents) -> Contents:
        record = contents.vms["web01"]
        return contents.with_vm(replace(record, **what))  # type: ignore[arg-type]

    return lambda rig, _vm: rig.site().database.commit_once(change, "test", "test")


def saved_by_a_backup(rig: Rig, vm: SimulatedVm) -> None:
    """Which died then: it is started again by the next database worker."""
    saved(rig, vm)
    begun(power=Power("savestate", "running", 1, since="2026-11-29T20:00:00Z", node="alpha"))(
        rig, vm
    )


def long_name(rig: Rig, vm: SimulatedVm) -> None:
    detached(rig, vm)
    path = vm.host.vms / f"{vm.uuid}-SATA-1.vdi"
    vm.host.run("closemedium", "disk", path)
    path = path.rename(path.with_name(f"{'n' * 220}.vdi"))
    words = ("--storagectl", "SATA", "--port", "1", "--type", "hdd", "--medium", str(path))
    vm.host.run("storageattach", vm.uuid, *words)


def hidden_disk(rig: Rig, _vm: SimulatedVm) -> None:
    """Somebody put one more disk into the `.ova`, and its new length into the sidecar."""
    (ova,) = (rig.nas / "web01").glob("*.ova")
    with tarfile.open(ova) as archive:
        members = [(each.name, archive.extractfile(each).read()) for each in archive]  # type: ignore[union-attr]
    disk = next(data for name, data in members if name.endswith(".vmdk"))
    ova.chmod(0o600)
    ova.write_bytes(tar_file([*members, ("more.vmdk", disk)]))
    sidecar = ova.with_suffix(".json")
    document = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**document, "size": ova.stat().st_size}))


def archived(rig: Rig, _vm: SimulatedVm) -> None:
    archive(rig.site(), "web01")


#: What is done to the VM, the exit code, and what is said of it.
REFUSED: dict[str, tuple[Callable[[Rig, SimulatedVm], object], int, str]] = {
    "it runs": (lambda _rig, vm: vm.start(), 15, "running"),
    "it is paused": (paused, 15, "paused"),
    "it is saved": (saved, 15, "is saved"),
    "it has a snapshot": (snapshot, 15, "has snapshots"),
    "its disk is that of another VM": (second_vm, 11, "that of other, too"),
    "it has a disk less": (detached, 15, "the VM has none at SATA-1-0"),
    "it has a disk more": (another_disk, 15, "none at SATA-2-0"),
    "it has its disk elsewhere": (elsewhere, 15, "the copy has none at SATA-3-0"),
    "it has a larger disk": (larger, 15, "5242880 bytes, the copy 4194304"),
    "it has a writethrough disk": (immutable, 15, "is writethrough"),
    "it has an image of fixed size": (
        lambda _rig, vm: rewritten(vm.host.vms / f"{vm.uuid}-SATA-1.vdi", kind=2),
        15,
        "of fixed size",
    ),
    "an image is damaged": (
        lambda _rig, vm: rewritten(vm.disk, kind=9),
        15,
        "VDI type 9",
    ),
    "an image has two names": (
        lambda _rig, vm: os.link(vm.disk, vm.host.vms / "link"),
        15,
        "another name",
    ),
    "somebody works on it": (claimed, 11, "is locked"),
    "a backup that died has saved it": (saved_by_a_backup, 11, "crashed worker began"),
    "an archiving was broken off": (begun(moving="archive"), 11, "crashed worker began"),
    "the name of a disk is too long": (long_name, 15, "too long for another one to lie beside it"),
    "it is archived": (archived, 15, "is ARCHIVED"),
    "the copy has a disk more": (hidden_disk, 1, "'more.vmdk', which its description does not"),
    "the copy is damaged": (
        lambda rig, _vm: [
            damage(rig, "web01", path.stem) for path in (rig.nas / "web01").glob("*.ova")
        ],
        1,
        "is damaged and was not restored",
    ),
}


DRY: set[str] = {
    "it is saved",
    "it has a larger disk",
    "somebody works on it",
    "a backup that died has saved it",
    "an archiving was broken off",
    "the name of a disk is too long",
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_and_nothing_is_changed(rig: Rig, vm: SimulatedVm, case: str) -> None:
    change = REFUSED[case][0](rig, vm)
    with change if isinstance(change, AbstractContextManager) else contextlib.nullcontext():
        refused(rig, vm, case)


def refused(rig: Rig, vm: SimulatedVm, case: str) -> None:
    _, code, said = REFUSED[case]
    before = disks(vm)
    result = admin(rig, "restore", "--into", "web01", DISCARD)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    after = disks(vm)
    if vm.info("VMState") in ("running", "paused"):
        before, after = dict.fromkeys(before, b""), dict.fromkeys(after, b"")
    assert after == before
    if case in DRY:
        dry = admin(rig, "restore", "--into", "web01", DISCARD, "--dry-run")
        assert (dry.exit_code, said in dry.stderr) == (code, True), dry.output
    assert not list((rig.folder / "state-alpha").glob("into-*.json"))
    if case == "it runs":
        left = rig.record("web01").leftovers
        assert not left, "nothing was made that would have to be removed"


def test_what_is_in_no_copy_is_lost_only_if_that_is_said(rig: Rig, vm: SimulatedVm) -> None:
    used(vm)
    before = disks(vm)
    result = admin(rig, "restore", "--into", "web01")
    assert result.exit_code == ExitCode.STATE_REFUSED
    assert "its disks were written" in result.stderr
    assert DISCARD in result.stderr
    assert disks(vm) == before
    assert "in no copy" in admin(rig, "restore", "--into", "web01", DISCARD, "--dry-run").stdout
    assert disks(vm) == before


def test_another_hosts_vm_and_options_that_do_not_fit_are_refused(
    rig: Rig, vm: SimulatedVm
) -> None:
    rig.host("beta")
    result = admin(rig, "restore", "--into", "web01", host="beta")
    assert result.exit_code == ExitCode.USAGE
    assert "web01 of alpha" in result.stderr
    for words in (
        ("--into", "web01", "--as", "other"),
        ("--into", "web01", "--to", "/tmp"),
        ("--into", "web01", "--disk", "1"),
        ("--into", "web01", "--finish", DISCARD),
        ("web01", "--finish"),
        ("web01", DISCARD),
        ("--into", "nobody"),
        ("--into", "web01", "--copy", "20200101T000000Z-1"),
    ):
        assert admin(rig, "restore", *words).exit_code == ExitCode.USAGE, words
    for option in ("--finish", DISCARD):
        said = admin(rig, "restore", "web01", option).stderr
        assert f" restore --into {option} web01" in said
    none = admin(rig, "restore", "--into", "web01", "--finish")
    assert none.exit_code == ExitCode.STATE_REFUSED
    assert "was not taken back" in none.stderr
    assert vm.info("VMState") == "poweroff"


def test_without_room_nothing_is_made(
    rig: Rig, vm: SimulatedVm, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - as of shutil
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(9 << 20, 8 << 20, 1 << 20))
    before = disks(vm)
    result = admin(rig, "restore", "--into", "web01")
    assert result.exit_code == ExitCode.FAILURE
    assert "there is no room" in result.stderr
    assert disks(vm) == before


def test_a_file_system_that_cannot_be_looked_at_is_said(
    rig: Rig, vm: SimulatedVm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_path: object) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = disks(vm)
    monkeypatch.setattr(shutil, "disk_usage", broken)
    result = admin(rig, "restore", "--into", "web01")
    assert result.exit_code == ExitCode.FAILURE
    assert f"{vm.host.vms} cannot be looked at: Input/output error" in result.stderr
    assert disks(vm) == before
    look = in_place_disks.limited(RoomLimit(10), {vm.host.vms / "away"}, lambda *_: None)
    with pytest.raises(CopyError, match="away cannot be looked at: No such file"):
        look("restore", 0)


def fails(
    error: BaseException, *, when: Callable[..., bool] = lambda *_: True, times: int = 9
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """A function that raises `error` so many times, when it is called so."""

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        left = [error] * times

        def call(*arguments: object, **named: object) -> object:
            if left and when(*arguments):
                raise left.pop()
            return real(*arguments, **named)

        return call

    return wrap


def is_done(_note: object, swap: Swap) -> bool:
    return bool(swap.done)


NO_ROOM = ConfigurationError("cannot remember which disks are being put in place: full")
#: What fails once it has its new disks, and what is said of it.
AFTERWARDS = {
    "the NAS is away": (Holding, "release", fails(NasError("the NAS is gone")), ""),
    "the NAS is away, and then ^C": (
        *(Holding, "release", fails(KeyboardInterrupt(), times=1)),
        "is not let go of: it was interrupted from the keyboard",
    ),
    "it cannot be noted": (SwapNote, "write", fails(NO_ROOM, when=is_done), "then: cannot rem"),
    "^C": (
        *(SwapNote, "write", fails(KeyboardInterrupt(), when=is_done, times=1)),
        "then: it was interrupted from the keyboard",
    ),
    "^C while it is recorded": (
        *(in_place_settling, "record_it", fails(KeyboardInterrupt())),
        "is not in the log: it was interrupted from the keyboard",
    ),
}


@pytest.mark.parametrize("case", AFTERWARDS)
def test_what_goes_wrong_when_it_has_its_new_disks_is_a_warning(
    rig: Rig, vm: SimulatedVm, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, wrap, said = AFTERWARDS[case]
    wanted, names = contents(vm), disks(vm).keys()
    used(vm)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, wrap(getattr(owner, name)))
        result = admin(rig, "restore", "--into", "web01", DISCARD)
    assert result.exit_code == 0, result.output
    assert "web01 is what it was at" in result.stdout
    assert said in result.stderr
    assert contents(vm) == wanted
    assert admin(rig, "restore", "--into", "web01", "--finish").exit_code == 0
    record = rig.record("web01")
    assert record.restored is not None
    assert record.status == State.BACKUP_NECESSARY
    assert disks(vm).keys() == names


#: Killed there, all new disks are in place, and that is not noted.
IN_PLACE = ("shared.tasks.swap_note", "SwapNote.write", 2)


def test_what_a_killed_command_has_done_is_not_taken_for_another_copy(
    rig: Rig, vm: SimulatedVm
) -> None:
    first = contents(vm)
    used(vm)
    back_up(rig)
    killed(IN_PLACE, lambda: admin(rig, "restore", "--into", "web01", "--copy", "previous"))
    stamps = sorted(path.stem for path in (rig.nas / "web01").glob("*.ova"))
    assert len(stamps) == 2
    result = admin(rig, "restore", "--into", "web01")
    assert result.exit_code == ExitCode.STATE_REFUSED
    assert f"was taken back to {stamps[0]} at" in result.stderr
    assert f"not to {stamps[1]}" in result.stderr
    assert contents(vm) == first
    restored = rig.record("web01").restored
    assert restored is not None, "it is in the log now"
    assert restored.stamp == stamps[0]


def test_what_the_database_worker_has_settled_is_in_the_log_at_last(
    rig: Rig, vm: SimulatedVm
) -> None:
    used(vm)
    killed(IN_PLACE, lambda: admin(rig, "restore", "--into", "web01", DISCARD))
    assert not database.run(rig.site()).failed
    assert rig.record("web01").restored is None
    assert admin(rig, "restore", "--into", "web01", "--finish").exit_code == 0
    restored = rig.record("web01").restored
    assert restored is not None
    assert (restored.uuid, restored.name) == (vm.uuid, "web01")


def test_while_its_disks_are_away_each_tick_tells_it(rig: Rig, vm: SimulatedVm) -> None:
    used(vm)
    present = contents(vm)
    killed(POINTS[1], lambda: admin(rig, "restore", "--into", "web01", DISCARD))
    lock = f"into-{vm.uuid}"
    away = vm.host.vms.rename(vm.host.vms.with_name("away"))
    vm.host.vms.mkdir()
    for _ in range(2):
        assert database.run(rig.site()).failed == [lock]
    vm.host.vms.rmdir()
    away.rename(vm.host.vms)
    assert not database.run(rig.site()).failed
    assert contents(vm) == present
    assert not list((rig.folder / "state-alpha").glob("into-*.json"))


def test_an_old_disk_that_a_vm_uses_by_now_is_not_removed(rig: Rig, vm: SimulatedVm) -> None:
    done = ask(rig, "restore", "--into", "web01")
    old = Path(done["old_disks"][0])  # type: ignore[index]
    other = rig.host().make_vm("other")
    used_by = add_disk(other, "SATA", 2)
    used_by.unlink()
    os.link(old, used_by)
    for words in (("--dry-run",), ()):
        result = admin(rig, "restore", "--into", "web01", "--finish", *words)
        assert result.exit_code == ExitCode.STATE_REFUSED
        assert f"{used_by}, is one of other by now" in result.stderr
        assert old.exists()
    vm.host.run("unregistervm", other.uuid)
    assert admin(rig, "restore", "--into", "web01", "--finish").exit_code == 0
    assert not old.exists()


def test_two_at_a_time_are_refused(rig: Rig, vm: SimulatedVm) -> None:
    from shared.host.host_lock import host_lock

    site = rig.site()
    state = site.configuration.host.state_directory
    with host_lock(state, SwapNote.of(state, vm.uuid).lock):
        assert admin(rig, "restore", "--into", "web01").exit_code == ExitCode.LOCKED


#: Before which of its steps the command is killed: calls of these, whichever comes first.
POINTS = (
    *(("shared.tasks.disk_swap", "move_file", number) for number in range(4)),
    *(("shared.tasks.swap_note", "SwapNote.write", number) for number in (1, 2)),
    ("coordinator.restore.in_place_disks", "VdiFile", 1),
    ("coordinator.restore.in_place_disks", "write_disks", 0),
    ("coordinator.restore.in_place_disks", "compare_disks", 0),
    ("coordinator.restore.in_place_settling", "record_it", 0),
)


#: Where the database worker alone settles it; all moves: tests/unit/tasks/test_disk_swap.py.
WORKER = (("move_file", 1), ("move_file", 2), ("compare_disks", 0))


def killed(point: tuple[str, str, int], work: Callable[[], object]) -> None:
    """Runs `work` in a process that is killed there."""
    import importlib

    module, path, number = point
    if not (pid := os.fork()):
        owner: object = importlib.import_module(module)
        *outer, name = path.split(".")
        for each in outer:
            owner = getattr(owner, each)
        real, called = getattr(owner, name), 0

        def counting(*arguments: object, **named: object) -> object:
            nonlocal called
            called += 1
            if called > number:
                os._exit(9)
            return real(*arguments, **named)

        setattr(owner, name, counting)
        work()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9, point


@pytest.mark.parametrize(
    ("point", "after"),
    [
        *((point, "the command") for point in POINTS),
        *((point, "the database worker") for point in POINTS if point[1:] in WORKER),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[1]}-{value[2]}",
)
def test_killed_anywhere_the_vm_has_all_old_or_all_new_disks_or_does_not_start(
    rig: Rig, vm: SimulatedVm, point: tuple[str, str, int], after: str
) -> None:
    # the newest copy has other disks than the VM, both of which differ
    wanted = contents(vm)
    used(vm)
    images.write(str(vm.host.vms / f"{vm.uuid}-SATA-1.vdi"), 1, os.urandom(images.BLOCK))
    present = contents(vm)
    assert all(new != old for new, old in zip(wanted, present, strict=True))
    names = disks(vm).keys()
    command = ("restore", "--into", "web01", DISCARD)
    killed(point, lambda: admin(rig, *command))

    whole = vm.disk.exists()
    if whole:
        assert contents(vm) in (wanted, present)
    else:
        assert vm.host.run("startvm", vm.uuid, "--type=headless", check=False).returncode != 0
    had_new = whole and contents(vm) == wanted

    if after == "the command":
        result = admin(rig, *command)
        known = point[1] == "record_it"  # it is said that it was done, and what is to be done now
        assert result.exit_code == (ExitCode.STATE_REFUSED if known else 0), result.output
        assert contents(vm) == wanted
        if known:
            notifier.run(rig.site())
        assert rig.record("web01").status == State.BACKUP_NECESSARY
    else:
        assert not database.run(rig.site()).failed
        assert contents(vm) == (wanted if had_new else present)
        notifier.run(rig.site())
        assert rig.record("web01").status == State.BACKUP_NECESSARY
    if contents(vm) == wanted:
        result = admin(rig, "restore", "--into", "web01", "--finish")
        assert result.exit_code == 0, result.output
    assert disks(vm).keys() == names
    assert not list((rig.folder / "state-alpha").glob("into-*.json"))
    assert rig.record("web01").claim is None
