"""What a person sees of backups at a terminal, of 80 and of 200 columns, and what ^C leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from coordinator.table import width
from shared.host import waits
from shared.host.host_lock import host_lock
from shared.state.rules import unfinished
from shared.state.states import State
from shared.state.store.lease import DatabaseLease
from tests.simulated.conftest import Rig
from tests.simulated.test_hang_up import program
from tests.support.terminal import read_at_terminal
from worker.backup import worker as backup

LONG = "the-production-database-server-of-the-second-floor-01"


def command(rig: Rig, *arguments: str) -> list[str]:
    """A worker of alpha, as a person calls it."""
    config = str(rig.folder / "config.toml")
    return [sys.executable, "-m", "worker.cli", "--config", config, *arguments]


@pytest.fixture
def waiting(rig: Rig) -> Rig:
    """A VM waits whose export takes a while; another one runs."""
    long, database = (rig.host().make_vm(name) for name in (LONG, "db01"))
    rig.look()
    rig.host().fault(long, export_seconds=1.5)
    database.start()
    process = program(rig, "notifier")  # writes the configuration, too
    assert process.communicate(timeout=30)[1] == ""
    return rig


@pytest.mark.parametrize(("worker", "columns"), [("backup", 80), ("run", 200)])
def test_each_vm_has_a_bar_and_the_end_a_summary(waiting: Rig, worker: str, columns: int) -> None:
    code, said = read_at_terminal(
        command(waiting, worker), columns, {**os.environ, "TERM": "xterm"}
    )
    assert code == 4, said
    bars = [line for line in said.splitlines() if "━" in line]
    assert any("exports" in line for line in bars), said
    assert all(width(line) <= columns for line in bars)
    assert all(part in said for part in re.findall(r".{1,20}", LONG)), "folded, and never cut"
    assert re.search(rf"{LONG}: copied after \d+ s", said), said
    summary = [line for line in said.splitlines() if re.match(r"1 copied, .* in \d+ s; ", line)]
    assert summary, said
    assert summary[-1].endswith("1 waits because it runs")


def test_without_rich_there_are_lines(waiting: Rig) -> None:
    without = "import sys; sys.modules['rich.console'] = None; from worker.cli import program; "
    main = f"{without}program.main(['--config', {str(waiting.folder / 'config.toml')!r}, 'backup'])"
    code, said = read_at_terminal([sys.executable, "-c", main], 80, dict(os.environ))
    assert code == 4, said
    assert f"{LONG}: prepares" in said or f"{LONG}: exports" in said, said
    assert "━" not in said
    assert "1 copied" in said


def test_where_nobody_looks_nothing_is_shown_but_logged_if_wanted(rig: Rig) -> None:
    rig.host().make_vm("db01").start()
    rig.look()
    program(rig, "notifier").communicate(timeout=30)  # writes the configuration
    for verbose, said in (([], ""), (["-v"], "no VM was copied; 1 waits because it runs")):
        done = subprocess.run(
            command(rig, *verbose, "backup"), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (4, "")
        assert (done.stderr == "") if not verbose else (said in done.stderr)


def test_control_c_says_what_it_leaves_which_is_nothing(waiting: Rig) -> None:
    waiting.host().fault(export_seconds=60)

    interrupted: list[bool] = []

    def interrupt(process: subprocess.Popen[bytes], said: str) -> None:
        if "exports" in said and waiting.host().exports() and not interrupted:
            interrupted.append(True)
            process.send_signal(signal.SIGINT)

    code, said = read_at_terminal(
        command(waiting, "backup", "--vm", LONG), 200, dict(os.environ), interrupt
    )
    assert code == 130, said
    assert (
        f"{LONG}: its backup was interrupted: no copy was made, and nothing of it is left" in said
    )
    assert "It is BACKUP_NECESSARY; the next tick tries again" in said
    record = waiting.record(LONG)
    assert (record.status, record.claim) == (State.BACKUP_NECESSARY, None)
    assert unfinished.of(record) == (), "not called the files of a worker that died"
    assert waiting.files(LONG) == []
    assert unfinished.of(replace(record, leftovers=True)), "the table would say so"


def test_a_dry_run_says_size_room_method_and_reason(waiting: Rig) -> None:
    said = subprocess.run(
        command(waiting, "backup", "--dry-run"), capture_output=True, text=True, check=True
    ).stdout
    lines = {line.split(":")[0]: line for line in said.splitlines()}
    assert re.search(r"disks .*B, needs at most .*B on the NAS; as it is: it is off", lines[LONG])
    assert "off, by VBoxManage (engine is vboxmanage); it has no copy yet" in lines[LONG]
    assert lines[LONG].endswith("it has no copy yet")
    assert "not now: left alone: it runs" in lines["db01"]
    assert re.search(r"1 VMs? would be backed up: about .* free, of which", said)


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_a_vm_that_needs_no_backup_is_told_so_with_what_would_make_one(
    rig: Rig, option: list[str]
) -> None:
    rig.host().make_vm("db01")
    rig.look()
    backup.run(rig.site())
    program(rig, "history").communicate(timeout=120)  # writes the configuration
    said = subprocess.run(
        command(rig, "backup", "--vm", "db01", *option), capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("db01 is CLEAN and not backed up: unused since its last copy")
    config = rig.folder / "config.toml"
    assert f"`vmbackup-worker --config {config} backup --vm db01 --now`" in said


@pytest.fixture
def gated(rig: Rig) -> Rig:
    """VBoxManage of alpha answers when there is a file `open`."""
    rig.host().make_vm("db01")
    program(rig, "history").communicate(timeout=120)  # writes the configuration
    gate = rig.folder / "gate"
    real, config = rig.host().vboxmanage, rig.folder / "config.toml"
    gate.write_text(
        f'#!/bin/sh\nwhile [ ! -e {rig.folder}/open ]; do sleep 0.05; done\nexec {real} "$@"\n'
    )
    gate.chmod(0o755)
    config.write_text(config.read_text().replace(str(real), str(gate)))
    return rig


@pytest.mark.parametrize("worker", ["vmfind", "run"])
def test_a_long_wait_says_what_for_and_how_long_at_most(gated: Rig, worker: str) -> None:
    def opened(_process: subprocess.Popen[bytes], said: str) -> None:
        if "VBoxManage list vms" in said:
            (gated.folder / "open").touch()

    _, said = read_at_terminal(command(gated, worker), 120, dict(os.environ), opened)
    assert "for VBoxManage list vms, 2 min at most" in said, said


def test_where_lines_are_json_a_wait_is_one_of_them(gated: Rig) -> None:
    def opened(_process: subprocess.Popen[bytes], said: str) -> None:
        if "VBoxManage list vms" in said:
            (gated.folder / "open").touch()

    words = command(gated, "--log-format", "json", "vmfind")
    _, said = read_at_terminal(words, 120, dict(os.environ), opened)
    told = [json.loads(line) for line in said.splitlines() if line]
    assert "waiting for VBoxManage list vms, 2 min at most" in {each["message"] for each in told}


def test_what_waits_under_cron_says_nothing(gated: Rig) -> None:
    process = subprocess.Popen(command(gated, "vmfind"), stderr=subprocess.PIPE)
    time.sleep(waits.SILENT_SECONDS + 1)  # may be too short to see a fault, and never fails without
    (gated.folder / "open").touch()
    assert (process.communicate(timeout=120)[1], process.returncode) == (b"", 0)


@pytest.mark.parametrize("worker", ["vmfind", "run"])
def test_control_c_is_answered_before_anything_has_begun(gated: Rig, worker: str) -> None:
    interrupted: list[bool] = []

    def interrupt(process: subprocess.Popen[bytes], said: str) -> None:
        if "VBoxManage list vms" in said and not interrupted:
            interrupted.append(True)
            process.send_signal(signal.SIGINT)

    code, said = read_at_terminal(command(gated, worker), 120, dict(os.environ), interrupt)
    assert code == 130, said
    assert said.count("interrupted") == 1, said


def test_a_worker_that_finds_another_of_its_kind_says_so(waiting: Rig) -> None:
    with host_lock(waiting.folder / "state-alpha", "backup-0") as mine:
        assert mine
        code, said = read_at_terminal(command(waiting, "backup"), 80, dict(os.environ))
    assert (code, "backup already runs on this host: nothing to do" in said) == (0, True)


def test_the_lease_is_waited_for_aloud(rig: Rig) -> None:
    rig.look()
    program(rig, "history").communicate(timeout=120)  # writes the configuration
    rig.host().make_vm("db01")
    database = rig.site().database
    with DatabaseLease(database.files, database.version.lease_seconds).held() as mine:
        assert mine
        code, said = read_at_terminal(command(rig, "vmfind"), 120, dict(os.environ))
    assert code == 0, said
    assert "waiting for the lease on the database, which another writer has, 4 s at most" in said


def test_a_watch_shows_the_next_look_in_place_of_the_last_one(waiting: Rig) -> None:
    watch = [sys.executable, "-m", "coordinator.admin", *command(waiting)[3:], "status", "--watch"]
    interrupted: list[bool] = []

    def interrupt(process: subprocess.Popen[bytes], said: str) -> None:
        if said.count("VMs: ") >= 2 and not interrupted:
            interrupted.append(True)
            process.send_signal(signal.SIGINT)

    (waiting.nas / "vmstate" / "reserve").unlink(missing_ok=True)
    code, said = read_at_terminal([*watch, "1"], 200, dict(os.environ), interrupt)
    assert code == 130, said
    first, *looks = said.split(", again every 1 s, until ^C")
    assert "looking for the first time" in first
    assert len(looks) >= 2, "more of them where ^C comes late"
    for look in looks:
        assert "warning: there is no reserve of the state database" in look, "not once only"
        assert "db01" in look
