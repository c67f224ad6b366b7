"""What `boot` says of names: of a VM that runs from a copy itself, and of one that did."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator.booting import machines, settling
from shared.host.errors import ExitCode
from shared.host.process_identity import ProcessIdentity
from shared.site import Site
from shared.state.rules import sightings
from shared.state.rules.sightings import Sighting
from shared.tasks import boot_done, boot_note
from shared.tasks.boot_note import BootNote, Phase
from tests.unit.coordinator.conftest import WHEN, Operator, uuid
from tests.unit.coordinator.test_boot_command import STAMP, note, operator

__all__ = ["note", "operator"]


def finished(operator: Operator, note: BootNote, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its server made an ordinary VM of it, which its user has moved since."""
    boot_done.remember(note, WHEN)
    note.file.unlink()
    there = operator.folder / "elsewhere"
    found = SimpleNamespace(settings_file=str(there / "trial.vbox"))
    monkeypatch.setattr(Site, "inventory", lambda _: {note.uuid: found})
    return there


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--as", "second")])
def test_one_that_runs_from_a_copy_has_none_and_it_is_said_what_goes_on(
    operator: Operator, note: BootNote, known: bool, more: tuple[str, ...]
) -> None:
    if known:  # as `vmfind` has it by then
        own = Sighting(note.uuid, "trial", "trial", left_out="runs from a copy")
        web = Sighting(note.vm, "web", "web")
        operator.commit(lambda contents: sightings.sight(contents, "alpha", [web, own], WHEN))
    refused = operator.admin("boot", "trial", *more)
    assert refused.exit_code == ExitCode.USAGE
    assert f"it runs itself from the copy {STAMP} of web" in refused.stderr
    for command in ("boot web --as trial;", "boot --finish trial;", "boot --discard trial"):
        assert command in refused.stderr


@pytest.mark.parametrize("taken", [False, True])
def test_one_whose_original_was_forgotten_is_gone_on_with_by_uuid(
    operator: Operator, note: BootNote, taken: bool
) -> None:
    """Its name may be another VM's since."""
    record = operator.record("web")
    operator.commit(lambda contents: contents.without_vm("web"))
    if taken:
        operator.commit(lambda contents: contents.with_vm(replace(record, uuid=uuid(3))))
    refused = operator.admin("boot", "trial")
    assert refused.exit_code == ExitCode.USAGE
    assert f"to go on with it: vmbackup-admin boot {note.vm} --as trial;" in refused.stderr


def test_one_that_is_finished_already_is_finished(
    operator: Operator, note: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = finished(operator, note, monkeypatch)
    for more in ((), ("--dry-run",)):
        done = operator.admin("boot", "--finish", "trial", *more)
        assert (done.exit_code, done.stdout) == (
            0,
            f"trial is an ordinary VM in {there}, since {WHEN}\n",
        ), done.stderr
    told = operator.json("boot", "--finish", "trial")
    assert (told["uuid"], told["stamp"], told["folder"]) == (note.uuid, STAMP, str(there))


def test_what_is_not_certain_is_no_success(
    operator: Operator, note: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(operator, note, monkeypatch)
    assert operator.admin("boot", "--finish", "web").exit_code == ExitCode.USAGE
    refused = operator.admin("boot", "--discard", "trial", "--yes")
    assert (refused.exit_code, f"an ordinary VM, {WHEN}" in refused.stderr) == (2, True)
    monkeypatch.setattr(Site, "inventory", lambda _: {})
    deleted = operator.admin("boot", "--finish", "trial")
    assert (deleted.exit_code, f"an ordinary VM, {WHEN}" in deleted.stderr) == (2, True)


def test_one_of_that_name_that_runs_from_a_copy_now_is_the_one_that_is_meant(
    operator: Operator, note: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(operator, note, monkeypatch)
    boot_note.write(replace(note, file=boot_note.new_file(note.file.parent)))
    done = operator.admin("boot", "--finish", "trial", "--dry-run")
    assert done.stdout.startswith("would finish trial"), done.stderr


def test_a_hundred_are_remembered_and_nonsense_is_none(note: BootNote) -> None:
    state = note.file.parent
    for number in range(103):
        each = replace(note, file=boot_note.new_file(state), name=f"vm{number}")
        boot_done.remember(each, WHEN)
        (path,) = (found for found in state.glob("booted-*") if each.file.stem[5:] in found.name)
        os.utime(path, (number, number))
    assert boot_done.named(state, "vm0") == []
    assert len(list(state.glob("booted-*.json"))) == 100
    (state / "booted-x.json").write_text('{"name": "vm9", "uuid": 7}')
    assert [each.name for each in boot_done.named(state, "vm9")] == ["vm9"]
    assert boot_done.named(state / "none", "vm9") == []


def test_what_was_settled_is_remembered(
    note: BootNote, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user has deleted it since its disks got their names: there is nothing to merge."""
    monkeypatch.setattr(machines, "moved_away", lambda _site, _note: None)
    monkeypatch.setattr(machines, "machine_of", lambda _site, _note: None)
    note.folder.mkdir(parents=True)
    boot_note.advanced(note, Phase.PLACED)
    assert settling.settle(operator.site(), note) == ""
    (done,) = boot_done.named(note.file.parent, "trial")
    assert (done.uuid, done.vm, done.stamp) == (note.uuid, "web", STAMP)


@pytest.fixture
def stopped(note: BootNote) -> Iterator[int]:
    """What served its disks was stopped: VirtualBox, asked for the VM, would wait for it."""
    note.filling.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"]) as server:
        os.kill(server.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, server.pid, os.WSTOPPED)
        own = ProcessIdentity.of(server.pid)
        assert own
        note.progress.write({"pid": own.pid, "started": own.started, "born": own.born})
        try:
            yield server.pid
        finally:
            server.kill()


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    "words", [("--finish", "trial"), ("--discard", "trial", "--yes"), ("web", "--as", "trial")]
)
def test_one_whose_server_was_stopped_is_left_alone_and_it_is_said_how_it_goes_on(
    operator: Operator,
    note: BootNote,
    monkeypatch: pytest.MonkeyPatch,
    stopped: int,
    words: tuple[str, ...],
    more: tuple[str, ...],
) -> None:
    def inventory(_: Site) -> None:
        raise AssertionError("VirtualBox was asked")

    monkeypatch.setattr(Site, "inventory", inventory)
    done = operator.admin("boot", *words, *more)
    assert done.exit_code == ExitCode.LOCKED, done.output
    said = " ".join(done.stderr.split())
    assert f"in {note.place} do not answer: their server, process {stopped}, was stopped" in said
    assert f"kill -CONT {stopped}" in said
    assert boot_note.read(note.file) == note
