"""Nothing of the user's is touched by its name.

VMs, snapshots and folders that are called like those of backups.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.site import Site
from shared.state.records import Power
from shared.state.rules import backup as backup_rules
from shared.state.store.create import create
from shared.virtualbox import scratch
from shared.virtualbox.live_clone import DESCRIPTION, Clones
from tests.simulated.conftest import Rig
from tests.support.simulated import SimulatedVm, settings
from worker import database, power_states, vmfind
from worker.backup import worker as backup


class Killed(BaseException):
    """The worker ends here, without any of its own tidying."""


def names(rig: Rig, host: str = "alpha") -> list[str]:
    """The VMs that VirtualBox lists."""
    return sorted(
        line.split('"')[1] for line in rig.host(host).run("list", "vms").stdout.splitlines()
    )


def snapshots(rig: Rig, vm: SimulatedVm) -> list[str]:
    listed = (
        rig.host()
        .run("snapshot", vm.uuid, "list", "--machinereadable", check=False)
        .stdout.splitlines()
    )
    return [line.split('"')[1] for line in listed if line.startswith("SnapshotName")]


def litter(vm: SimulatedVm) -> list[str]:
    """What is in the VM's folder and not its own."""
    own = {vm.settings.name, f"{vm.settings.name}-prev", "Snapshots"}
    return [
        path.name
        for path in vm.settings.parent.iterdir()
        if path.name not in own and path.suffix not in (".vbox", ".vbox-prev")
    ]


def kill_at(monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool) -> None:
    """Ends the worker before or after a step, with all its tidying left out.

    `note` is the commit of the snapshot's UUID.
    """
    target, name, calls = (backup_rules, "touch", 2) if step == "note" else (Clones, step, 1)
    original = getattr(target, name)
    left = [calls]

    def dying(*arguments: object) -> object:
        left[0] -= 1
        if left[0] > 0:
            return original(*arguments)  # type: ignore[no-any-return]
        if after:
            original(*arguments)
        raise Killed

    monkeypatch.setattr(target, name, dying)
    monkeypatch.setattr("worker.backup.export.put_back_safely", lambda *_: None)


def killed(rig: Rig, step: str, *, after: bool) -> None:
    """Runs a live backup of web01 that is killed there."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, step, after=after)
        with pytest.raises(Killed):
            backup.run(rig.site(live_when_stopped=True), only="web01")
    assert rig.record("web01").power is not None


def claims_begin_at_one(rig: Rig) -> None:
    assert rig.site().database.head().contents.claims_granted == 0, (
        "the first backup is to have claim 1"
    )


STEPS = [
    (step, after)
    for step in ("make_folder", "take", "note", "clone")
    for after in (False, True)
    if (step, after) != ("note", True)
]


@pytest.mark.parametrize(
    ("step", "after"),
    STEPS,
    ids=[f"{'after' if after else 'before'} {step}" for step, after in STEPS],
)
def test_a_live_backup_killed_at_any_step_leaves_nothing_after_the_next_tick(
    rig: Rig, step: str, after: bool
) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().run("snapshot", vm.uuid, "take", "vmbackup-1", f"--description={DESCRIPTION}")
    theirs = rig.host().make_vm("vmbackup-1")
    rig.look()
    claims_begin_at_one(rig)
    killed(rig, step, after=after)
    assert set(vmfind_names(rig)) == {"web01", "vmbackup-1"}, "what was left is nobody's VM"
    assert database.run(rig.site()).failed == []
    assert rig.record("web01").power is None
    assert (names(rig), snapshots(rig, vm)) == (["vmbackup-1", "web01"], ["vmbackup-1"])
    assert (litter(vm), theirs.disk.exists()) == ([], True)


def vmfind_names(rig: Rig, host: str = "alpha") -> list[str]:
    vmfind.run(rig.site(host))
    return sorted(rig.site(host).database.head().contents.vms)


def test_a_users_vm_with_the_name_of_an_old_clone_survives_with_its_disk(rig: Rig) -> None:
    """At 027e4e6 the live backup under claim 1 deleted it."""
    theirs = rig.host().make_vm("vmbackup-1")
    vm = rig.host().make_vm("web01")
    before = theirs.disk.read_bytes()
    assert sorted(rig.look().database.head().contents.vms) == ["vmbackup-1", "web01"], (
        "it is found as well"
    )
    claims_begin_at_one(rig)
    assert backup.run(rig.site(live_when_stopped=True), only="web01").done == ["web01"]
    assert (names(rig), snapshots(rig, vm), theirs.disk.read_bytes()) == (
        ["vmbackup-1", "web01"],
        [],
        before,
    )
    assert backup.run(rig.site(live_when_stopped=True)).done == ["vmbackup-1"]
    assert (names(rig), litter(vm), litter(theirs)) == (["vmbackup-1", "web01"], [], [])


def test_a_users_snapshot_with_the_name_of_an_old_one_survives_and_ours_does_not(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().run("snapshot", vm.uuid, "take", "vmbackup-1")
    rig.look()
    claims_begin_at_one(rig)
    assert backup.run(rig.site(live_when_stopped=True)).done == ["web01"]
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["web01"], ["vmbackup-1"], [])


@pytest.mark.parametrize("what", ["vm", "snapshot", "folder"])
def test_if_a_name_is_taken_nothing_is_done(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(scratch, "new_token", lambda: "0" * 32)
    name = f"vmbackup-{'0' * 32}"
    vm = rig.host().make_vm("web01")
    if what == "vm":
        rig.host().make_vm(name)
    elif what == "snapshot":
        rig.host().run("snapshot", vm.uuid, "take", name)
    else:
        (vm.settings.parent / name).mkdir()
        (vm.settings.parent / name / "precious").write_text("x")
    rig.look()
    before = (names(rig), snapshots(rig, vm), litter(vm))
    assert backup.run(rig.site(live_when_stopped=True), only="web01").failed == ["web01"]
    assert f"the name {name} is taken by" in rig.record("web01").last_error
    assert (names(rig), snapshots(rig, vm), litter(vm)) == before
    assert rig.record("web01").power is None


def test_a_folder_that_comes_up_in_the_last_moment_is_not_undone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    made: list[Path] = []

    def somebody_is_faster(folder: Path, mark: scratch.Mark) -> None:
        folder.mkdir()
        (folder / "precious").write_text(mark.name)
        made.append(folder)
        raise FileExistsError

    monkeypatch.setattr(scratch, "make", somebody_is_faster)
    assert backup.run(rig.site(live_when_stopped=True)).failed == ["web01"]
    assert rig.record("web01").power is None
    assert (names(rig), snapshots(rig, vm), (made[0] / "precious").exists()) == (
        ["web01"],
        [],
        True,
    )


def failing(rig: Rig) -> str:
    """Runs a tick that cannot undo; what it says. The note must stay."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        said: list[str] = []
        monkeypatch.setattr(
            power_states.log, "error", lambda text, *values, **_: said.append(text % values)
        )
        assert database.run(rig.site()).failed == ["web01"]
    assert rig.record("web01").power is not None
    return said[0]


def clone_of(rig: Rig) -> str:
    power = rig.record("web01").power
    assert power is not None
    return power.clone


def test_a_disk_of_the_user_that_is_attached_to_the_clone_survives(
    rig: Rig, tmp_path: Path
) -> None:
    """`unregistervm --delete` would delete it."""
    vm = rig.host().make_vm("web01")
    rig.look()
    killed(rig, "clone", after=True)
    disk = tmp_path / "precious.vdi"
    rig.host().run("createmedium", "disk", "--filename", disk, "--size", "4")
    rig.host().run(
        "storageattach",
        clone_of(rig),
        "--storagectl=SATA",
        "--port=3",
        "--type=hdd",
        f"--medium={disk}",
    )
    assert database.run(rig.site()).failed == []
    assert (disk.exists(), names(rig), snapshots(rig, vm), litter(vm)) == (True, ["web01"], [], [])


def test_a_disk_that_the_user_put_into_our_folder_stays_and_is_named(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    killed(rig, "clone", after=True)
    (folder,) = vm.settings.parent.glob("vmbackup-*")
    (folder / "precious.vdi").write_bytes(b"x")
    assert f"{folder / 'precious.vdi'} was put into a folder" in failing(rig)
    (folder / "precious.vdi").rename(vm.host.vms / "precious.vdi")
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["web01"], [], [])


def test_a_clone_that_somebody_started_is_waited_for(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    killed(rig, "clone", after=True)
    rig.host().run("startvm", clone_of(rig), "--type=headless")
    assert "somebody has started the clone" in failing(rig)
    rig.host().run("controlvm", clone_of(rig), "poweroff")
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["web01"], [], [])


def test_a_clone_of_which_somebody_took_a_snapshot_stays(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    killed(rig, "clone", after=True)
    rig.host().run("snapshot", clone_of(rig), "take", "mine")
    assert "somebody has taken a snapshot of the clone" in failing(rig)
    assert len(names(rig)) == 2
    rig.host().run("snapshot", clone_of(rig), "delete", "mine")
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["web01"], [], [])


def test_a_vm_that_uses_the_disk_of_the_clone_keeps_it(rig: Rig) -> None:
    vm, other = rig.host().make_vm("web01"), rig.host().make_vm("other")
    rig.look()
    killed(rig, "clone", after=True)
    disk = rig.site().inventory()[clone_of(rig)].chains[0][0].location
    rig.host().run(
        "storageattach",
        other.uuid,
        "--storagectl=SATA",
        "--port=2",
        "--type=hdd",
        f"--medium={disk}",
    )
    assert "the VM 'other'" in failing(rig)
    assert Path(disk).exists()
    rig.host().run("storageattach", other.uuid, "--storagectl=SATA", "--port=2", "--medium=none")
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["other", "web01"], [], [])


def test_a_name_and_a_folder_like_ours_hide_no_vm_of_the_user(rig: Rig) -> None:
    """Also not one that was made in our very folder, where it stays."""
    rig.host().make_vm("web01")
    theirs = rig.host().make_vm(f"vmbackup-{'a' * 32}")
    rig.look()
    killed(rig, "clone", after=True)
    power = rig.record("web01").power
    assert power is not None
    rig.host().run("createvm", "--name=inside", f"--basefolder={power.folder}", "--register")
    assert vmfind_names(rig) == ["inside", theirs.name, "web01"]
    assert "the VM 'inside'" in failing(rig)
    assert {"inside", theirs.name} < set(names(rig))


def test_an_empty_answer_undoes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 027e4e6 the note was taken back, and snapshot and clone stayed for ever."""
    vm = rig.host().make_vm("web01")
    rig.look()
    killed(rig, "clone", after=True)
    monkeypatch.setattr(Site, "inventory", lambda _site: {})
    assert "VirtualBox does not list web01" in failing(rig)
    monkeypatch.undo()
    assert len(names(rig)) == 2
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["web01"], [], [])


def test_a_vm_that_was_unregistered_with_our_snapshot_keeps_its_note(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().make_vm("other")
    rig.look()
    killed(rig, "clone", after=False)
    path = vm.settings
    rig.host().run("unregistervm", vm.uuid)
    assert "was unregistered with the snapshot" in failing(rig)
    rig.host().run("registervm", path)
    assert database.run(rig.site()).failed == []
    assert (snapshots(rig, vm), litter(vm)) == ([], [])


def test_a_vm_that_was_deleted_with_all_of_it_keeps_no_note(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().make_vm("other")
    rig.look()
    killed(rig, "make_folder", after=True)
    rig.host().run("unregistervm", vm.uuid, "--delete")
    assert database.run(rig.site()).failed == []
    assert rig.record("web01").power is None


@pytest.mark.parametrize("step", ["take", "clone"])
def test_a_vm_that_was_renamed_meanwhile_is_freed_of_all_of_it(rig: Rig, step: str) -> None:
    """VirtualBox renames its folder, and with it ours.

    The clone is still registered at its old place.
    """
    vm = rig.host().make_vm("web01")
    rig.look()
    killed(rig, step, after=True)
    rig.host().run("modifyvm", vm.uuid, "--name=web02")
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["web02"], [], [])


def test_a_snapshot_that_somebody_renamed_stays(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    killed(rig, "clone", after=False)
    with rig.host().state(changes=True) as host:
        host.machines[vm.uuid].snapshots[0].name = "I need this"
        settings.write_machine(host, host.machines[vm.uuid])
    assert "to 'I need this'" in failing(rig)
    assert snapshots(rig, vm) == ["I need this"]


def old_backup(
    rig: Rig,
    vm: SimulatedVm,
    *,
    description: str = DESCRIPTION,
    tag: str = "vmbackup-1",
    clone: bool = True,
) -> None:
    """What a live backup of 027e4e6 under claim 1 leaves when it is killed.

    Snapshot, clone and note.
    """
    rig.host().run("snapshot", vm.uuid, "take", tag, f"--description={description}")
    if clone:
        words = [
            f"--snapshot={tag}",
            "--mode=machine",
            "--options=Link,KeepAllMACs,KeepHwUUIDs",
            f"--name={tag}",
            "--register",
        ]
        rig.host().run("clonevm", vm.uuid, *words, f"--basefolder={vm.settings.parent}")
    note_old(rig)


def note_old(rig: Rig) -> None:
    power = Power("live", "poweroff", 1)
    rig.site().database.commit_once(
        lambda contents: contents.with_vm(replace(contents.vms["web01"], power=power)),
        "live web01, which is poweroff",
        "backup",
    )


def test_what_the_first_release_left_is_undone_by_its_note(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    old_backup(rig, vm)
    assert vmfind_names(rig) == ["web01"]
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["web01"], [], [])


def test_a_note_of_the_first_release_never_hurts_a_users_vm_or_snapshot(rig: Rig) -> None:
    vm, theirs = rig.host().make_vm("web01"), rig.host().make_vm("vmbackup-1")
    rig.look()
    old_backup(rig, vm, description="mine", clone=False)
    assert vmfind_names(rig) == ["vmbackup-1", "web01"]
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), theirs.disk.exists()) == (
        ["vmbackup-1", "web01"],
        ["vmbackup-1"],
        True,
    )


def test_a_linked_clone_of_the_users_own_in_the_place_of_an_old_one_stays_and_is_said(
    rig: Rig,
) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    old_backup(rig, vm, description="mine")
    assert "it stays" in failing(rig)
    assert (names(rig), snapshots(rig, vm)) == (["vmbackup-1", "web01"], ["vmbackup-1"])


def test_two_repositories_on_one_host_do_not_meet(rig: Rig, tmp_path: Path) -> None:
    """Both have claim 1.

    The clone of the one is no VM for the other, and neither undoes what the other has made.
    """
    vm = rig.host().make_vm("web01")
    other = Rig.__new__(Rig)
    other.folder, other.nas, other.hosts = tmp_path / "other", tmp_path / "other" / "nas", rig.hosts
    other.policies = {}
    other.nas.mkdir(parents=True)
    create(other.nas / "vmstate", HostIdentity.of_this_machine("first"), SystemClock(), 2.0)
    rig.look()
    killed(rig, "clone", after=True)
    other.look()
    assert list(other.site().database.head().contents.vms) == ["web01"]
    killed(other, "clone", after=True)
    assert vmfind_names(rig) == ["web01"]
    assert (len(names(rig)), len(snapshots(rig, vm))) == (3, 2)
    assert database.run(other.site()).failed == []
    assert (len(names(rig)), len(snapshots(rig, vm)), clone_of(rig) in rig.site().inventory()) == (
        2,
        1,
        True,
    )
    assert database.run(rig.site()).failed == []
    assert (names(rig), snapshots(rig, vm), litter(vm)) == (["web01"], [], [])


def test_a_vm_with_a_long_name_is_still_copied_live(rig: Rig) -> None:
    vm = rig.host().make_vm("n" * 120)
    assert backup.run(rig.look()).done == [vm.name]
    assert (names(rig), litter(vm)) == ([vm.name], [])


def test_a_vm_that_is_called_like_the_page_has_another_directory(rig: Rig) -> None:
    rig.host().make_vm("vmbackup.html")
    rig.look()
    place = rig.record("vmbackup.html").directory
    assert place != "vmbackup.html"
    assert place.casefold().startswith("vmbackup.html")
    assert backup.run(rig.site()).done == ["vmbackup.html"]
    assert not (rig.nas / "vmbackup.html").exists(), "it is free for the page"
