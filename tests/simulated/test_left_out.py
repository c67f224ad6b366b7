"""VMs that the configuration leaves out of backups: never silently, and never losing a copy."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.copies import catalogue
from shared.host.configuration import UNFINISHED
from shared.host.errors import IllegalMoveError
from shared.state.records import Power, VmRecord
from shared.state.states import State
from shared.tasks import boot_note
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.tasks.judgement import Level
from shared.tasks.verdicts import judge
from shared.virtualbox import scratch
from tests.simulated.conftest import Rig, planned
from worker import database, notifier, vmfind
from worker.backup import publish
from worker.backup import worker as backup

NEVER = {"backup": "never"}
RULE = '[policy."scratch-*"] backup = "never"'


def leave_out(rig: Rig) -> None:
    rig.policies = {"scratch-*": dict(NEVER)}


def tick(rig: Rig, name: str = "alpha") -> int:
    """What cron starts; the exit code of the backup worker."""
    site = rig.look(name)
    database.run(site)
    return int(backup.run(site).exit_code)


def verdict(rig: Rig, name: str = "alpha") -> tuple[Level, str, str]:
    site = rig.site(name)
    (said,) = (
        one for one in judge(site, site.database.head().contents).vms if one.subject == "scratch-1"
    )
    return said.level, said.kind, said.reason


def stamps(rig: Rig) -> list[str]:
    return [copy.stamp for copy in catalogue.read(rig.nas / "scratch-1", None).good]


def test_it_is_not_backed_up_and_every_host_says_so(rig: Rig) -> None:
    leave_out(rig)
    rig.host().make_vm("scratch-1")
    rig.host().make_vm("web01")
    rig.host("beta")
    assert tick(rig) == 0
    assert (rig.record("scratch-1").left_out, rig.record("web01").status) == (RULE, State.CLEAN)
    assert not (rig.nas / "scratch-1").exists()
    rig.policies = {}  # another host need not know the rule: what counts is that of the VM's host
    said = (Level.OK, "left-out", f"left out of backups by its host: {RULE}")
    assert verdict(rig, "beta") == said


def test_one_that_runs_is_waited_for_by_nobody(rig: Rig) -> None:
    leave_out(rig)
    rig.host().make_vm("scratch-1").start()
    assert tick(rig) == 0, "not 4: nothing waits until it stops"
    rig.policies = {"scratch-*": {**NEVER, "running": "savestate", "running_hours": 0}}
    assert tick(rig) == 0
    assert rig.site().vboxmanage.info(rig.record("scratch-1").uuid).state == "running"


def test_its_copies_stay_and_it_is_backed_up_again_when_the_rule_is_gone(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    vm = rig.host().make_vm("scratch-1")
    tick(rig)
    kept = stamps(rig)
    leave_out(rig)
    vm.start()
    vm.stop()
    with caplog.at_level(logging.INFO):
        assert tick(rig) == 0
        kept_now, status = stamps(rig), rig.record("scratch-1").status
        rig.policies = {}
        assert tick(rig) == 0
    assert f"scratch-1 is left out of backups: {RULE}" in caplog.text
    assert kept_now == kept != []
    assert status == State.BACKUP_NECESSARY
    assert "scratch-1 is backed up again" in caplog.text
    assert len(stamps(rig)) == 2
    assert rig.record("scratch-1").left_out == ""


def test_backup_of_that_vm_is_refused_with_the_rule(rig: Rig) -> None:
    leave_out(rig)
    rig.host().make_vm("scratch-1")
    site = rig.look()
    for refused in (backup.run, planned):
        with pytest.raises(IllegalMoveError, match="left out of backups") as raised:
            refused(site, only="scratch-1")
        assert RULE in raised.value.message
    assert planned(site) == []


def change(rig: Rig, how: Callable[[VmRecord], VmRecord]) -> None:
    rig.site().database.commit_once(
        lambda contents: contents.with_vm(how(contents.vms["scratch-1"])), "test", "test"
    )


def test_one_that_was_saved_for_its_backup_is_started_again(rig: Rig) -> None:
    vm = rig.host().make_vm("scratch-1")
    vm.start()
    rig.look()
    rig.host().run("controlvm", vm.uuid, "savestate")
    change(rig, lambda record: replace(record, power=Power("savestate", "running", 1)))
    rig.note_power("scratch-1")
    leave_out(rig)
    assert tick(rig) == 0
    assert vm.info("VMState") == "running"
    assert rig.record("scratch-1").power is None


def test_a_publication_that_was_begun_is_finished(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(BaseException):
        pass

    vm = rig.host().make_vm("scratch-1")
    site, intend = rig.look(), publish.intend

    def die(*arguments: object) -> None:
        intend(*arguments)  # type: ignore[arg-type]
        raise DiedError

    monkeypatch.setattr(publish, "intend", die)
    with pytest.raises(DiedError):
        backup.run(site)
    leave_out(rig)
    vm.start()
    assert tick(rig) == 0
    assert len(stamps(rig)) == 1
    assert verdict(rig)[:2] == (Level.OK, "left-out")


@pytest.mark.parametrize("allowed", [False, True])
def test_a_vm_may_say_it_itself_if_it_is_allowed_to(rig: Rig, allowed: bool) -> None:
    vm = rig.host().make_vm("scratch-1")
    rig.host().run("setextradata", vm.uuid, "vmbackup/backup", "never")
    rig.policies = {"scratch-*": {"vm_decides": allowed}}
    tick(rig)
    assert bool(rig.record("scratch-1").left_out) == allowed
    assert stamps(rig) == [] if allowed else len(stamps(rig)) == 1


def test_a_group_is_left_out_and_a_vm_that_leaves_it_is_backed_up(rig: Rig) -> None:
    vm = rig.host().make_vm("scratch-1")
    rig.host().run("modifyvm", vm.uuid, "--groups=/office/second,/else")
    rig.policies = {"the office": {"group": "/office", **NEVER}}
    tick(rig)
    assert rig.record("scratch-1").groups == ("/office/second", "/else")
    assert rig.record("scratch-1").left_out == '[policy."the office"] backup = "never"'
    rig.host().run("modifyvm", vm.uuid, "--groups=/else")
    tick(rig)
    assert (rig.record("scratch-1").left_out, len(stamps(rig))) == ("", 1)


def test_a_vm_whose_settings_are_gone_for_a_while_is_still_left_out(rig: Rig) -> None:
    vm = rig.host().make_vm("scratch-1")
    rig.host().run("modifyvm", vm.uuid, "--groups=/office")
    rig.policies = {"*": {"group": "/office", **NEVER}}
    site = rig.look()
    vm.settings.rename(f"{vm.settings}.away")
    vmfind.run(site)
    notifier.run(site)
    assert rig.record("scratch-1").left_out == '[policy."*"] backup = "never"'


def test_one_that_ran_when_it_was_unregistered_is_missing_and_not_waited_for(rig: Rig) -> None:
    vm = rig.host().make_vm("scratch-1")
    vm.start()
    assert tick(rig) == 4
    vm.stop()
    rig.host().run("unregistervm", vm.uuid)
    assert tick(rig) == 0
    record = rig.record("scratch-1")
    assert (record.status, bool(record.missing_since)) == (State.RUNNING, True)


def test_one_that_runs_from_a_copy_is_shown_and_waits_until_it_is_finished(rig: Rig) -> None:
    vm = rig.host().make_vm("scratch-1")
    state = rig.site().configuration.host.state_directory
    note = BootNote(
        boot_note.new_file(state),
        state / "web",
        *("scratch-1", vm.uuid, "original", "web", "20261122T203800Z-17", "digest"),
        (BootDisk("disk.vmdk", vm.uuid, "disk.vdi"),),
        "2026-11-22T20:38:00Z",
        phase=Phase.RUNNING,
    )
    boot_note.write(note)
    vm.start()
    vm.stop()
    assert tick(rig) == 0
    assert rig.record("scratch-1").left_out == UNFINISHED
    assert verdict(rig)[:2] == (Level.OK, "left-out")
    assert not (rig.nas / "scratch-1").exists()
    scratch.write_mark(vm.settings.parent, note.mark)
    note.file.write_text("{")  # nobody knows of which VM it tells, and the others are looked at
    rig.host().make_vm("web01")
    assert tick(rig) == 0
    assert rig.record("scratch-1").left_out == UNFINISHED
    assert rig.record("web01").status == State.CLEAN
    note.file.unlink()
    (vm.settings.parent / scratch.MARK).unlink()
    assert tick(rig) == 0
    assert rig.record("scratch-1").left_out == ""
    assert len(stamps(rig)) == 1
