"""Copies that VirtualBox would not import: kept, shown, a failure, and in no good copy's way."""

import logging
import time

import pytest

from coordinator.restore import choice
from shared.copies import catalogue
from shared.host.clock import SystemClock
from shared.host.errors import CopyError
from shared.state import formats
from shared.state.states import State
from shared.tasks import verification
from tests.simulated.conftest import Rig
from worker import database
from worker.backup import publish
from worker.backup import worker as backup

WHY = "Element 'Sausage' exceeds limit"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemClock, "sleep", lambda _clock, seconds: time.sleep(min(seconds, 0.2)))


def stamps(rig: Rig, *, refused: bool) -> list[str]:
    found = catalogue.read(rig.nas / "web01", rig.record("web01").uuid).copies
    assert all(copy.good != copy.refused for copy in found)
    return [copy.stamp for copy in found if copy.refused == refused]


def used(rig: Rig, **settings: object) -> backup.Report:
    """The VM is used, and then a tick comes."""
    uuid = rig.record("web01").uuid
    rig.host().run("startvm", uuid, "--type=headless")
    rig.host().run("controlvm", uuid, "poweroff")
    rig.look()
    return backup.run(rig.site(**settings))


@pytest.fixture
def copied(rig: Rig) -> Rig:
    """A VM with one good copy, on a host that imports nothing any more."""
    rig.host().make_vm("web01")
    assert backup.run(rig.look()).done == ["web01"]
    rig.host().fault(import_refuses=WHY)
    return rig


def test_a_refused_copy_is_kept_marked_and_a_failure(
    copied: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    (good,) = stamps(copied, refused=False)
    report = used(copied, keep_last=1)
    assert (report.failed, report.exit_code) == (["web01"], 3)
    record = copied.record("web01")
    assert (record.status, record.failures) == (State.BACKUP_NECESSARY, 1)
    assert "VirtualBox would not import it, although its disks are whole" in record.last_error
    assert WHY in record.last_error
    assert record.last_copy is not None
    assert record.last_copy.stamp == good
    assert stamps(copied, refused=False) == [good], "the only rule was keep_last = 1"
    (stamp,) = stamps(copied, refused=True)
    site = copied.site()
    with site.database.session("verify") as session:
        examined = verification.verify_copy(site, session, "web01", stamp)
    assert examined is not None
    assert examined.problem == "", "every byte of it is as it was written"
    assert copied.record("web01").damaged == (), "and it is called refused, not damaged"
    assert choice.choose(site, copied.record("web01"), "latest").stamp == good
    assert WHY in choice.look_for(site, copied.record("web01"), stamp).doubt


def test_while_older_programs_may_finish_it_a_refused_copy_is_not_kept(
    copied: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take it for a good one, and let the last good one go."""
    good = stamps(copied, refused=False)
    monkeypatch.setattr(formats, "NEWEST", "3.0")
    assert used(copied, keep_last=1).failed == ["web01"]
    record = copied.record("web01")
    assert record.status == State.BACKUP_NECESSARY
    assert WHY in record.last_error
    assert stamps(copied, refused=False) == good
    assert stamps(copied, refused=True) == []
    assert not any(".partial" in name for name in copied.files("web01"))


def test_refused_copies_do_not_pile_up_and_go_when_a_good_one_is_there(
    copied: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(copied)
    (first,) = stamps(copied, refused=True)
    assert used(copied).failed == ["web01"]
    assert stamps(copied, refused=True) == [first], "nothing has changed that it could mend"
    uuid = copied.record("web01").uuid
    copied.host().run("modifyvm", uuid, "--description=other")
    assert used(copied).failed == ["web01"]
    (second,) = stamps(copied, refused=True)
    assert second != first, "its disks are newer"
    copied.host().mend()
    assert backup.run(copied.site(), only="web01").done == ["web01"]
    assert stamps(copied, refused=True) == []
    assert copied.record("web01").status == State.CLEAN


def test_one_that_has_no_good_copy_says_where_its_disks_are(rig: Rig) -> None:
    rig.host().make_vm("web01")
    rig.host().fault(import_refuses=WHY)
    assert backup.run(rig.look()).failed == ["web01"]
    (stamp,) = stamps(rig, refused=True)
    with pytest.raises(CopyError, match="no good copy") as raised:
        choice.choose(rig.site(), rig.record("web01"), "latest")
    assert f"the disks of {stamp} are whole" in raised.value.hint


def test_an_answer_that_is_none_is_asked_for_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.host().make_vm("web01")
    rig.host().fault(import_unreadable=2)
    with caplog.at_level(logging.WARNING):
        assert backup.run(rig.look()).done == ["web01"]
    assert caplog.text.count("VirtualBox is asked again about the copy") == 2


def test_no_answer_at_all_is_a_failure_and_leaves_nothing(rig: Rig) -> None:
    rig.host().make_vm("web01")
    rig.host().fault(import_unreadable=1000)
    rig.look()
    assert backup.run(rig.site(stall_seconds=8)).failed == ["web01"]  # the export has it, too
    assert "does not say whether it would import the copy" in rig.record("web01").last_error
    assert rig.files("web01") == []


@pytest.mark.parametrize("by", ["alpha", "beta"])
def test_whoever_finishes_the_publication_of_a_dead_worker_keeps_it_refused(
    copied: Rig, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    class DiedError(BaseException):
        pass

    intend = publish.intend

    def die(*arguments: object) -> None:
        intend(*arguments)  # type: ignore[arg-type]
        raise DiedError

    copied.host("beta")
    good = stamps(copied, refused=False)
    monkeypatch.setattr(publish, "intend", die)
    with pytest.raises(DiedError):
        used(copied)
    assert database.run(copied.site(by, keep_last=1)).failed == ["web01"]
    assert stamps(copied, refused=False) == good
    assert len(stamps(copied, refused=True)) == 1
    assert copied.record("web01").status == State.BACKUP_NECESSARY


@pytest.mark.parametrize("engine", ["vboxmanage", "auto"])
def test_the_two_kinds_that_virtualbox_does_not_import_as_it_exports_them_are_backed_up(
    rig: Rig, engine: str
) -> None:
    vm = rig.host().make_vm("web01")
    for kind, controller in (("scsi", "LSILogic"), ("sas", "LSILogicSAS")):
        path = rig.host().vms / f"{kind}.vdi"
        rig.host().run("createmedium", "disk", f"--filename={path}", "--size=8")
        rig.host().run(
            "storagectl", vm.uuid, f"--name={kind}", f"--add={kind}", f"--controller={controller}"
        )
        place = (f"--storagectl={kind}", "--port=0", "--device=0", "--type=hdd")
        rig.host().run("storageattach", vm.uuid, *place, f"--medium={path}")
    rig.host().run("modifyvm", vm.uuid, f"--description={'é' * 9000}")
    rig.look()
    assert backup.run(rig.site(engine=engine)).done == ["web01"]
    (stamp,) = stamps(rig, refused=False)
    assert "é" * 9000 in (rig.nas / "web01" / f"{stamp}.vbox").read_text(encoding="utf-8")
