"""Restores and rehearsals with a VBoxManage whose import fails, hangs, lies, or is refused."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from coordinator import audit_trail
from coordinator.restore import choice, completing, restoring
from coordinator.restore.direct import DirectPlan, NotDirectError
from shared.copies import catalogue, sidecar_files
from shared.copies import sidecar as sidecars
from shared.host.errors import (
    CopyError,
    LockedError,
    NasError,
    UsageError,
    VBoxManageError,
    VmBackupError,
)
from shared.host.host_lock import host_lock
from shared.nas import reading
from shared.site import Site
from shared.state.rules import claims, vm_records
from shared.state.store.create import create
from shared.tasks import import_leftovers, import_note, rehearsal, rehearsal_trial
from shared.tasks.rehearsal_trial import Wishes
from shared.virtualbox import scratch
from shared.virtualbox.boot_check import BootCheck
from tests.simulated.conftest import Rig
from tests.simulated.test_unlisted import admin
from tests.simulated.test_verify import back_up, damage, two_copies
from tests.support.simulated.power import SCREEN
from tests.support.waiting import wait_for
from worker import database, vmfind
from worker.backup import worker as backup

PROGRESS = "printf '0%%...100%%\\nInterpreting…\\nOK.\\n0%%...40%%...' >&2"
#: What an import may do instead of importing. `$folder` is that of the new VM.
FAULTS = {
    "fails": (
        'echo half >"$folder/disk.vdi"; echo "VBoxManage: error: Appliance import failed '
        '(VERR_DISK_FULL)" >&2; exit 1'
    ),
    "fails, and goes on writing": 'echo half >"$folder/disk.vdi"; '
    '(sleep 0.3; mkdir -p "$folder"; echo late >"$folder/x.vbox") >/dev/null 2>&1 & '
    'echo "VBoxManage: error: Appliance import failed (VERR_DISK_FULL)" >&2; exit 1',
    "is refused": 'echo half >"$folder/disk.vdi"; echo "VBoxManage: error: Appliance import failed '
    '(VERR_NOT_SUPPORTED)" >&2; exit 1',
    "hangs": 'echo half >"$folder/disk.vdi"; trap "exit 1" INT TERM; while :; do sleep 0.1; done',
    "lies": "exit 0",
    "succeeds although it is cancelled": 'trap "" INT TERM; sleep 2; exec "$real" "$@"',
}


@pytest.fixture
def say(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Callable[[Site, str, Path], None]:
    """Makes the imports of a site do something else."""

    def change(site: Site, fault: str, folder: Path) -> None:
        real = site.vboxmanage.program
        script = rig.folder / "VBoxManage-with-a-fault"
        script.write_text(
            (
                f'#!/bin/sh\nreal="{real}"; folder="{folder}"\n[ "$1" = import ] || exec "$real" '
                f'"$@"\n{PROGRESS}\n{FAULTS[fault]}\n'
            ),
            encoding="utf-8",
        )
        script.chmod(0o755)
        monkeypatch.setattr(site.vboxmanage, "program", str(script))

    return change


def restore(site: Site, key: str = "web01", **wishes: object) -> restoring.Restored:
    record = vm_records.find(site.database.head().contents, key)
    copy = choice.choose(site, record, "latest")
    what = restoring.plan(site, copy, **wishes)  # type: ignore[arg-type]
    restoring.verify(copy, lambda _what, _percent: None)
    kept = completing.kept_settings(what)
    return restoring.restore(site, copy.stamp, what, lambda _what, _percent: None, kept)


def listed(site: Site) -> list[str | None]:
    return [machine.name for machine in site.inventory().values()]


def test_a_copy_becomes_a_vm_on_another_host(rig: Rig) -> None:
    two_copies(rig)
    rig.host("beta")
    site = rig.site("beta")
    restored = restore(site)
    machine = site.inventory()[restored.uuid]
    assert (machine.name, machine.accessible) == ("web01", True)
    assert Path(restored.settings_file).parent.name == "web01"


def test_a_restore_is_in_the_log(rig: Rig) -> None:
    _, new = two_copies(rig)
    rig.host("beta")
    site = rig.site("beta")
    restored = restore(site, name="web02")
    restoring.note(site, "web01", restored)
    last = next(audit_trail.commits(site.database.root, audit_trail.Wanted("web01")))
    assert (last.node, last.reason) == ("beta", f"restore web01 {new} as web02")
    assert last.changes == (f"web01 {new} restored on beta as web02",)
    noted = rig.record("web01").restored
    assert noted is not None
    assert (noted.stamp, noted.node, noted.uuid) == (new, "beta", restored.uuid)


def test_a_restore_of_a_vm_that_was_forgotten_meanwhile_brings_no_record_back(rig: Rig) -> None:
    two_copies(rig)
    site = rig.site()
    restored = restore(site, name="web02")
    site.database.commit_once(
        lambda contents: vm_records.forget(contents, "web01"), "forget", "admin"
    )
    restoring.note(site, "web01", restored)
    assert "web01" not in site.database.head().contents.vms


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("fails", VBoxManageError, "disk is full"),
        ("fails, and goes on writing", VBoxManageError, "disk is full"),
        ("hangs", CopyError, "has not moved for 1 s"),
        ("lies", VBoxManageError, "has registered nothing"),
        ("succeeds although it is cancelled", CopyError, "has not moved"),
    ],
)
def test_an_import_that_goes_wrong_leaves_nothing(
    rig: Rig,
    say: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    error: type[Exception],
    text: str,
) -> None:
    two_copies(rig)
    rig.host("beta")
    site = rig.site("beta", stall_seconds=1)
    base = rig.folder / "made" / "for it"
    rig.folder.joinpath("made").mkdir()
    monkeypatch.setattr(scratch, "new_token", lambda: "0" * 32)
    say(site, fault, base / f"vmbackup-restore-{'0' * 32}")
    with pytest.raises(error, match=text):
        restore(site, folder=base)
    time.sleep(0.4 if "goes on" in fault else 0)
    assert [path.name for path in (rig.folder / "made").rglob("*")] == []
    assert listed(site) == []
    assert left_in_state(rig, "beta") == []


def left_in_state(rig: Rig, host: str) -> list[str]:
    """Notes and locks of restores in the state directory of a host."""
    return [path.name for path in (rig.folder / f"state-{host}").glob("*restore*")]


def test_what_is_there_is_never_overwritten(rig: Rig) -> None:
    two_copies(rig)
    site = rig.site()
    with pytest.raises(UsageError, match="has a VM 'web01' already"):
        restore(site, folder=rig.folder / "elsewhere")
    (rig.folder / "base" / "web_02").mkdir(parents=True)
    with pytest.raises(UsageError, match="is there already"):
        restore(site, name="web:02", folder=rig.folder / "base")
    assert list((rig.folder / "base" / "web_02").iterdir()) == []
    with pytest.raises(UsageError, match="no VM can be called"):
        restore(site, name="web\0", folder=rig.folder / "base")
    with pytest.raises(UsageError, match="lies in the state database"):
        restore(site, name="web02", folder=rig.nas / "vmstate")
    one = admin(rig, "restore", "web01", "--disk", "1", "--to", str(rig.nas / "web01" / "disk.vdi"))
    assert (one.exit_code, "lies in the directory of a VM" in one.output) == (2, True)


def test_a_vm_whose_folder_is_gone_and_that_virtualbox_knows_there_still_is_named_with_a_remedy(
    rig: Rig,
) -> None:
    two_copies(rig)
    site = rig.site()
    uuid = rig.record("web01").uuid
    folder = Path(site.inventory()[uuid].settings_file).parent
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match="VirtualBox still knows a VM") as caught:
        restore(site)
    assert f"VBoxManage unregistervm {uuid}" in caught.value.hint
    assert "--as NAME" in caught.value.hint
    assert not folder.exists()
    beside = restore(site, name="web02")
    assert site.inventory()[beside.uuid].accessible
    rig.host().run("unregistervm", uuid)
    assert restore(site).name == "web01"


def test_a_folder_that_appears_at_the_last_moment_is_not_ours(rig: Rig) -> None:
    two_copies(rig)
    rig.host("beta")
    site = rig.site("beta")
    record = vm_records.find(site.database.head().contents, "web01")
    copy = choice.choose(site, record, "latest")
    what = restoring.plan(site, copy, folder=rig.folder / "base")
    what.folder.mkdir(parents=True)
    (what.folder / "mine").touch()
    with pytest.raises(UsageError, match="is there already"):
        restoring.restore(site, copy.stamp, what, lambda _what, _percent: None, None)
    assert (what.folder / "mine").exists()


def test_which_copy(rig: Rig) -> None:
    old, new = two_copies(rig)
    site = rig.site()
    record = rig.record("web01")
    assert [choice.choose(site, record, which).stamp for which in ("latest", "previous", old)] == [
        new,
        old,
        old,
    ]
    (rig.nas / "web01" / f"{new}.ova").unlink()
    assert choice.choose(site, record, "latest").stamp == old
    with pytest.raises(CopyError, match="only one good copy"):
        choice.choose(site, record, "previous")
    with pytest.raises(CopyError, match="has no copy"):
        choice.choose(site, record, new)


def test_a_damaged_copy_is_not_restored(rig: Rig) -> None:
    _, new = two_copies(rig)
    damage(rig, "web01", new)
    rig.host("beta")
    with pytest.raises(CopyError, match="is damaged and was not restored"):
        restore(rig.site("beta"))
    assert listed(rig.site("beta")) == []


def with_side_files(rig: Rig) -> str:
    """A VM with a TPM that has one copy; its stamp."""
    vm = rig.host().make_vm("web01")
    vm.settings.with_suffix(".nvram").write_bytes(b"keys of a TPM")
    back_up(rig)
    (copy,) = catalogue.read(rig.nas / "web01", None).good
    assert copy.sidecar is not None
    assert set(copy.sidecar.files) == {"vbox", "nvram"}
    return copy.stamp


@pytest.mark.parametrize(
    ("suffix", "how"),
    [("vbox", "rotten"), ("nvram", "rotten"), ("nvram", "longer"), ("nvram", "pipe")],
)
def test_a_copy_whose_side_file_is_not_what_was_kept_is_not_restored(
    rig: Rig, suffix: str, how: str
) -> None:
    stamp = with_side_files(rig)
    path = rig.nas / "web01" / f"{stamp}.{suffix}"
    data = path.read_bytes()
    site = rig.site()
    copy = choice.choose(site, rig.record("web01"), stamp)
    path.unlink()
    if how == "rotten":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif how == "longer":
        path.write_bytes(data + b"x")
    else:
        os.mkfifo(path)
    with pytest.raises(CopyError, match=rf"was not restored: .*\.{suffix}") as raised:
        restoring.verify(copy, lambda _what, _percent: None)
    assert "the .ova itself is good" in raised.value.hint


@pytest.mark.parametrize("imported", [False, True])
def test_the_settings_that_are_used_are_those_that_were_compared(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, imported: bool
) -> None:
    """They are read once: what lies there afterwards is not what a VM is made of."""
    rig.host().make_vm("web01", mib=2, random_mib=1)
    rig.look()
    backup.run(rig.site(engine="parallel"))
    rig.host("beta")
    site = rig.site("beta")
    copy = choice.choose(site, rig.record("web01"), "latest")
    what = restoring.plan(site, copy)
    opened: list[str] = []
    real = reading.open_file

    def seen(path: Path, **how: bool) -> BinaryIO:
        opened.append(path.suffix)
        return real(path, **how)

    def refused(*_: object) -> DirectPlan:
        raise NotDirectError("it is so here")

    monkeypatch.setattr(reading, "open_file", seen)
    if imported:
        monkeypatch.setattr(restoring, "plan_directly", refused)
    done = restoring.bring_back(site, copy, what, lambda _what, _percent: None)
    assert (done.imported_because != "", opened.count(".vbox")) == (imported, 1)


def test_saved_memory_that_does_not_come_back_anyway_is_in_no_restores_way(rig: Rig) -> None:
    stamp = with_side_files(rig)
    copy = choice.choose(rig.site(), rig.record("web01"), stamp)
    assert copy.sidecar is not None
    side = copy.sidecar
    memory = replace(side, files={**side.files, "sav": sidecars.SideFile(5, "0" * 64)})
    restoring.verify(replace(copy, sidecar=memory), lambda _what, _percent: None)


@pytest.mark.parametrize("how", ["link", "pipe", "endless"])
def test_keys_of_a_tpm_that_change_after_they_were_read_are_read_by_the_door_of_the_nas(
    rig: Rig, how: str
) -> None:
    stamp = with_side_files(rig)
    rig.host("beta")
    site = rig.site("beta")
    copy = choice.choose(site, rig.record("web01"), stamp)
    what = restoring.plan(site, copy)
    path = rig.nas / "web01" / f"{stamp}.nvram"
    path.unlink()
    if how == "link":
        (rig.folder / "elsewhere").write_bytes(b"of another VM")
        path.symlink_to(rig.folder / "elsewhere")
    elif how == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(65 << 20)
    with pytest.raises((NasError, CopyError), match=r"\.nvram"):
        restoring.restore(site, stamp, what, lambda _what, _percent: None, None)
    assert listed(site) == []


def test_a_copy_for_which_there_is_no_room_is_not_begun(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(rig)
    rig.host("beta")
    usage = shutil.disk_usage(rig.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(CopyError, match="there is no room"):
        restore(rig.site("beta"))


@pytest.fixture
def scene(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the next rehearsal's VM on alpha, foretold."""
    monkeypatch.setattr(scratch, "new_token", lambda: "0" * 32)
    name = f"vmbackup-rehearsal-{'0' * 32}"
    return rig.folder / "state-alpha" / "rehearsals" / name


def rehearse(site: Site, **wishes: object) -> rehearsal.Rehearsal:
    record = vm_records.find(site.database.head().contents, "web01")
    copy = choice.choose(site, record, "latest")
    with rehearsal.alone(site) as turn:
        return rehearsal.rehearse(turn, site, record, copy, Wishes(**wishes))  # type: ignore[arg-type]


def test_a_rehearsal_is_recorded_and_leaves_nothing(rig: Rig) -> None:
    _, new = two_copies(rig)
    rig.host("beta")
    site = rig.site("beta")
    done = rehearse(site)
    assert (done.good, done.recorded) == (True, True)
    side = sidecar_files.read(rig.nas / "web01", new)
    assert (side.rehearsed, side.verified and side.verified.result) == (done.result, "good")
    assert catalogue.read(rig.nas / "web01", None).latest_good is not None
    assert listed(site) == []
    assert list((rig.folder / "state-beta" / "rehearsals").glob("*")) == []
    assert list((rig.folder / "state-beta").glob("rehearsal-*.json")) == []


def test_a_rehearsal_that_boots_leaves_a_screenshot_beside_the_copy_and_the_next_one_replaces_it(
    rig: Rig,
) -> None:
    _, new = two_copies(rig)
    site = rig.site()
    picture = rig.nas / "web01" / f"{new}.png"
    for boots in (True, False, True):
        done = rehearse(site, boot=boots, wait_seconds=0.1)
        assert (done.good, done.recorded, done.result.booted) == (True, True, boots)
        copy = catalogue.read(rig.nas / "web01", None).find(new)
        assert copy is not None
        assert (copy.good, copy.screenshot, picture.exists()) == (True, boots, boots)
    assert picture.read_bytes() == SCREEN
    assert listed(site) == ["web01"]
    assert [name for name in rig.files("web01") if "partial" in name] == []


@pytest.mark.parametrize(
    "screen", ["exit 1", "echo GIF89a >$4", "ln -s /etc/passwd $4", "truncate -s 9M $4", "mkdir $4"]
)
def test_a_screenshot_that_cannot_be_kept_is_no_fault_of_the_copy(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, screen: str
) -> None:
    _, new = two_copies(rig)
    site = rig.site()
    script = rig.folder / "VBoxManage-with-a-screen"
    real = site.vboxmanage.program
    script.write_text(f'#!/bin/sh\n[ "$3" = screenshotpng ] || exec {real} "$@"\n{screen}\n')
    script.chmod(0o755)
    monkeypatch.setattr(site.vboxmanage, "program", str(script))
    done = rehearse(site, boot=True, wait_seconds=0.1)
    assert (done.good, done.recorded) == (True, True)
    assert not (rig.nas / "web01" / f"{new}.png").exists()
    assert listed(site) == ["web01"]


def test_a_rehearsal_that_fails_is_recorded_and_the_copy_still_counts(
    rig: Rig, say: Callable[..., None], scene: Path
) -> None:
    _, new = two_copies(rig)
    site = rig.site()
    say(site, "is refused", scene)
    done = rehearse(site)
    assert not done.good
    side = sidecar_files.read(rig.nas / "web01", new)
    assert side.rehearsed is not None
    assert "VERR_NOT_SUPPORTED" in side.rehearsed.result
    assert list((rig.folder / "state-alpha").glob("rehearsals/*")) == []
    assert catalogue.read(rig.nas / "web01", None).latest_good is not None


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("fails", VBoxManageError, "disk is full"),
        ("lies", VBoxManageError, "has registered nothing"),
        ("hangs", CopyError, "has not moved"),
    ],
)
def test_what_is_the_fault_of_the_host_is_no_result(
    rig: Rig, say: Callable[..., None], scene: Path, fault: str, error: type, text: str
) -> None:
    _, new = two_copies(rig)
    site = rig.site(stall_seconds=1)
    say(site, fault, scene)
    with pytest.raises(error, match=text):
        rehearse(site)
    assert sidecar_files.read(rig.nas / "web01", new).rehearsed is None
    assert rig.record("web01").rehearsed is None
    assert list((rig.folder / "state-alpha").glob("rehearsals/*")) == []


def test_a_setting_that_virtualbox_refuses_is_the_operators_error(rig: Rig) -> None:
    """It was kept as a copy that does not come back, and told to people."""
    two_copies(rig)
    refused = admin(rig, "rehearse", "web01", "--boot", "--wait", "1", "--set", "nosuch=1")
    assert (refused.exit_code, "settings of --set" in refused.stderr) == (2, True), refused.output
    assert rig.record("web01").rehearsed is None
    assert listed(rig.site()) == ["web01"]


@pytest.mark.parametrize(
    ("error", "is_result"),
    [
        (NasError("the NAS does not answer"), False),
        (
            VBoxManageError("VBoxManage startvm failed: VT-x is not available (VERR_VMX_NO_VMX)"),
            False,
        ),
        (VBoxManageError("VBoxManage startvm failed: a wrong image (VERR_VD_RAW_INVALID)"), True),
    ],
)
def test_a_start_that_fails_is_a_result_unless_it_is_the_fault_of_the_host(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: VmBackupError, *, is_result: bool
) -> None:
    two_copies(rig)
    site = rig.site()

    def fail(_self: object, _seconds: float) -> None:
        raise error

    monkeypatch.setattr(BootCheck, "start_and_watch", fail)
    if is_result:
        assert rehearse(site, boot=True).result.result == error.message
    else:
        with pytest.raises(type(error)):
            rehearse(site, boot=True)
        assert rig.record("web01").rehearsed is None
    assert listed(site) == ["web01"]


def test_a_rehearsal_of_a_damaged_copy_marks_it(rig: Rig) -> None:
    _, new = two_copies(rig)
    damage(rig, "web01", new)
    done = rehearse(rig.site())
    assert done.result.result.startswith("damaged: ")
    assert rig.record("web01").damaged == (new,)


class Killed(BaseException):
    """The rehearsal ends here, without any of its own tidying."""


def killed(monkeypatch: pytest.MonkeyPatch, site: Site, *, imported: bool) -> None:
    """Runs a rehearsal that is killed before its import, or when that is done."""
    real = rehearsal_trial.make

    def dying(*arguments: object) -> None:
        if imported:
            real(*arguments)  # type: ignore[arg-type]
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(rehearsal_trial, "make", dying)
        context.setattr(import_leftovers, "remove", lambda _site, _note: None)
        with pytest.raises(Killed):
            rehearse(site)


@pytest.mark.parametrize("imported", [False, True])
def test_what_a_killed_rehearsal_left_is_removed_by_the_next_and_found_by_nobody(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, imported: bool
) -> None:
    two_copies(rig)
    site = rig.site()
    killed(monkeypatch, site, imported=imported)
    assert len(listed(site)) == 1 + imported
    assert len(list((rig.folder / "state-alpha" / "rehearsals").iterdir())) == 1
    vmfind.run(site)
    assert list(site.database.head().contents.vms) == ["web01"]
    assert rehearse(site).good
    assert listed(site) == ["web01"]
    assert list((rig.folder / "state-alpha").glob("rehearsals/*")) == []


def test_a_vm_that_nobody_can_read_is_named_by_its_uuid_with_what_ends_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can prove whose it is. VirtualBox may also have made it where it sees other files."""
    two_copies(rig)
    site = rig.site()
    killed(monkeypatch, site, imported=False)
    (folder,) = (rig.folder / "state-alpha" / "rehearsals").iterdir()
    rig.host().run("createvm", "--name=x", f"--basefolder={folder}", "--register")
    (folder / "x" / "x.vbox").unlink()
    (uuid,) = {machine.uuid for machine in site.inventory().values() if machine.name is None}
    with pytest.raises(VBoxManageError, match="a VM whose settings cannot be read") as caught:
        rehearse(site)
    assert uuid in caught.value.message
    assert f"`VBoxManage unregistervm {uuid}`" in caught.value.hint


def dying_at(name: str, replace: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    """`Path.replace`, for somebody who is killed before a file gets that name."""

    def replaced(file: Path, target: Path) -> Path:
        if Path(target).name == name:
            raise Killed
        return replace(file, target)

    return replaced


@pytest.mark.parametrize(
    "reached", ["its mark", "the folder", "the import", "its name", "its place"]
)
def test_what_a_killed_restore_left_is_removed_by_the_database_worker(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, reached: str
) -> None:
    """A VM that got to its place is whole, and stays; only the note goes."""
    two_copies(rig)
    rig.host("beta")
    site = rig.site("beta")

    def die(*_arguments: object, **_more: object) -> None:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(import_leftovers, "remove", lambda _site, _note: None)
        if reached == "its mark":
            context.setattr(Path, "replace", dying_at(scratch.MARK, Path.replace))
        elif reached == "the folder":
            context.setattr(restoring, "make", die)
        elif reached == "the import":
            context.setattr(restoring, "move_to_place", die)
        elif reached == "its name":
            run = site.vboxmanage.run
            context.setattr(
                site.vboxmanage, "run", lambda *w: die() if w[0] == "registervm" else run(*w)
            )
        else:
            context.setattr(import_note, "settle", die)
        with pytest.raises(Killed):
            restore(site, folder=rig.folder / "made" / "for it")
    assert len(left_in_state(rig, "beta")) == 2
    vmfind.run(site)
    expected = ["web01"] if reached == "its place" else []
    known = [vm.node for vm in site.database.head().contents.vms.values()].count("beta")
    assert known == len(expected), "what is not whole is nobody's VM"
    report = database.run(site)
    assert (report.failed, listed(site), left_in_state(rig, "beta")) == ([], expected, [])
    left = sorted(path.name for path in (rig.folder / "made").rglob("*") if path.is_file())
    assert all(name.startswith("web01") for name in left)
    assert bool(left) == bool(expected)
    assert (rig.folder / "made").exists() == bool(expected)


def test_what_a_restore_left_that_died_before_its_note_goes_a_day_later(rig: Rig) -> None:
    """Its lock and half of its note; not those of one that works, or has just begun."""
    site, state = rig.look(), rig.folder / "state-alpha"
    names = ["restore-a.lock", "restore-b.json.12ab", "restore-b.lock", "restore-c.lock"]
    with host_lock(state, "restore-c"):
        for name in names:
            (state / name).touch()
            os.utime(state / name, (1, 1))
        (state / "restore-d.lock").touch()
        database.run(site)
        assert sorted(left_in_state(rig, "alpha")) == ["restore-c.lock", "restore-d.lock"]


def test_a_restore_that_works_is_left_alone_by_the_database_worker(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(rig)
    rig.host("beta")
    site = rig.site("beta")
    make = restoring.make

    def meanwhile(*arguments: object) -> object:
        made = make(*arguments)  # type: ignore[arg-type]
        database.run(rig.site("beta"))
        return made

    monkeypatch.setattr(restoring, "make", meanwhile)
    restored = restore(site)
    assert site.inventory()[restored.uuid].name == "web01"
    assert left_in_state(rig, "beta") == []


def test_a_vm_that_the_user_makes_meanwhile_under_that_name_is_not_ours(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(rig)
    rig.host("beta")
    site = rig.site("beta")
    make = restoring.make

    def meanwhile(*arguments: object) -> object:
        made = make(*arguments)  # type: ignore[arg-type]
        rig.host("beta").run("createvm", "--name", "web01", "--register")
        return made

    monkeypatch.setattr(restoring, "make", meanwhile)
    with pytest.raises(UsageError, match="has a VM 'web01' already"):
        restore(site)
    (machine,) = site.inventory().values()
    assert (machine.name, Path(machine.settings_file).exists()) == ("web01", True)
    assert left_in_state(rig, "beta") == []


def test_what_a_killed_rehearsal_left_is_removed_by_the_database_worker(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(rig)
    site = rig.site()
    killed(monkeypatch, site, imported=True)
    assert database.run(site).failed == []
    assert listed(site) == ["web01"]
    assert list((rig.folder / "state-alpha").glob("rehearsal-*.json")) == []
    assert not (rig.folder / "state-alpha" / "rehearsals").exists()


def test_an_import_that_virtualbox_goes_on_with_by_itself_is_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VBoxManage was killed, and VBoxSVC writes on: what it writes to is not taken away yet."""
    two_copies(rig)
    site = rig.site()
    killed(monkeypatch, site, imported=False)
    (folder,) = (rig.folder / "state-alpha" / "rehearsals").iterdir()
    (folder / "disk.vdi").write_bytes(b"half")
    assert database.run(site).failed == ["a rehearsal"]
    assert (folder / "disk.vdi").exists()
    os.utime(folder / "disk.vdi", (time.time() - 61, time.time() - 61))
    assert database.run(site).failed == []
    assert not folder.exists()


def test_what_a_killed_rehearsal_of_the_first_release_left_is_removed_by_its_note(rig: Rig) -> None:
    _, new = two_copies(rig)
    site = rig.site()
    restored = restore(site, name=f"vmbackup-rehearsal-{new}", folder=rig.folder / "left")
    folder = Path(restored.settings_file).parent
    (rig.folder / "state-alpha" / "rehearsal-folder").write_text(str(folder))
    vmfind.run(site)
    assert list(site.database.head().contents.vms) == ["web01"]
    assert rehearse(site).good
    assert listed(site) == ["web01"]
    assert not folder.exists()
    assert not (rig.folder / "state-alpha" / "rehearsal-folder").exists()


def test_a_users_vm_that_is_called_like_a_rehearsal_is_found_and_never_removed(rig: Rig) -> None:
    two_copies(rig)
    vm = rig.host().make_vm("vmbackup-rehearsal-20260101T000000Z-1")
    site = rig.look()
    assert "vmbackup-rehearsal-20260101T000000Z-1" in site.database.head().contents.vms
    assert rehearse(site).good
    assert (sorted(map(str, listed(site))), vm.disk.exists()) == (
        ["vmbackup-rehearsal-20260101T000000Z-1", "web01"],
        True,
    )


def test_a_disk_of_the_user_that_is_attached_to_a_rehearsed_vm_survives(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    two_copies(rig)
    site = rig.site()
    killed(monkeypatch, site, imported=True)
    (machine,) = [machine for machine in site.inventory().values() if machine.name != "web01"]
    disk = tmp_path / "precious.vdi"
    rig.host().run("createmedium", "disk", "--filename", disk, "--size", "4")
    controller = "--storagectl=SATA"
    rig.host().run("storagectl", machine.uuid, "--name=SATA", "--add=sata", "--portcount=4")
    rig.host().run(
        "storageattach", machine.uuid, controller, "--port=3", "--type=hdd", f"--medium={disk}"
    )
    assert rehearse(site).good
    assert (listed(site), disk.exists()) == (["web01"], True)


def test_a_disk_that_was_put_into_the_folder_of_a_rehearsal_stays(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(rig)
    site = rig.site()
    with monkeypatch.context() as context:
        context.setattr(import_leftovers, "remove", lambda _site, _note: None)
        assert rehearse(site).good
    (folder,) = (rig.folder / "state-alpha" / "rehearsals").iterdir()
    (folder / "precious.vdi").write_bytes(b"x")
    with pytest.raises(VBoxManageError, match=r"precious\.vdi was put into a folder"):
        rehearse(site)
    (folder / "precious.vdi").rename(rig.folder / "precious.vdi")
    assert rehearse(site).good
    assert not folder.exists()


def test_rehearsals_of_two_repositories_on_one_host_do_not_meet(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They share VirtualBox and even the state directory.

    What one has left is neither a VM for the other, nor removed by it.
    """
    two_copies(rig)
    first = rig.site()
    killed(monkeypatch, first, imported=True)
    other = Rig.__new__(Rig)
    other.folder, other.nas, other.hosts = rig.folder, tmp_path / "other-nas", rig.hosts
    other.policies = {}
    other.nas.mkdir()
    create(other.nas / "vmstate", first.identity, first.clock, 2.0)
    (rig.folder / "state-alpha" / "repositories.json").unlink(missing_ok=True)
    for path in (rig.folder / "state-alpha").glob("*repository*"):
        path.unlink()
    second = other.look()
    assert list(second.database.head().contents.vms) == ["web01"]
    rehearsal.rehearsal_note.remove_noted(second)
    assert len(listed(second)) == 2
    rehearsal.rehearsal_note.remove_noted(first)
    assert listed(first) == ["web01"]


def test_a_note_that_names_something_else_removes_nothing(rig: Rig) -> None:
    two_copies(rig)
    precious = rig.folder / "precious"
    precious.mkdir()
    site = rig.site()
    (rig.folder / "state-alpha" / "rehearsal-folder").write_text(str(precious))
    rehearsal.rehearsal_note.remove_noted(site)
    assert precious.exists()


def test_one_rehearsal_at_a_time_on_a_host(rig: Rig, say: Callable[..., None], scene: Path) -> None:
    two_copies(rig)
    slow = rig.site(stall_seconds=3)
    say(slow, "hangs", scene)
    ends: list[VmBackupError] = []

    def stall() -> None:
        try:
            rehearse(slow)
        except VmBackupError as error:
            ends.append(error)

    thread = threading.Thread(target=stall)
    thread.start()
    wait_for(lambda: list((rig.folder / "state-alpha" / "rehearsals").glob("*/disk.vdi")))
    with pytest.raises(LockedError, match="another rehearsal"):
        rehearse(rig.site())
    thread.join()
    assert "has not moved" in ends[0].message


def test_a_result_that_cannot_be_recorded_is_said_so(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(rig)
    site = rig.site()
    make, pauses = rehearsal_trial.make, list[float]()
    with site.database.session("other") as session:

        def claimed_meanwhile(*arguments: object) -> object:
            session.commit(
                lambda contents: claims.grant(contents, "web01", session.id, "verify", "now"),
                "held",
            )
            made = make(*arguments)  # type: ignore[arg-type]
            monkeypatch.setattr(site.clock, "sleep", pauses.append)
            monkeypatch.setattr(site.clock, "monotonic", lambda: sum(pauses))
            return made

        monkeypatch.setattr(rehearsal_trial, "make", claimed_meanwhile)
        done = rehearse(site)
    assert (done.good, done.recorded) == (True, False)
    assert sum(pauses) >= 60, "whoever works on the VM is waited for"
