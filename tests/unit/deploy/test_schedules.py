"""The units, jobs and crontab lines: they call what there is, in the way that VirtualBox needs."""

import configparser
import getpass
import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.documents import ROOT
from shared.host.configuration.text import EXAMPLE_MOUNTPOINT
from tests.support import command_lines
from worker.cli import COMMANDS

#: `database` ends with what `tell` does.
WORKERS = sorted(set(COMMANDS) - {"run", "tell"})
#: What VMs would inherit from a unit that happened to start VirtualBox's service.
INHERITED = {
    "nice",
    "ioschedulingclass",
    "cpuquota",
    "memorymax",
    "nonewprivileges",
    "oomscoreadjust",
    "cpuschedulingpolicy",
}


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they are installed for this user."""
    command = [ROOT / "deploy/systemd/install", getpass.getuser(), "/srv/nas", tmp_path]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert sorted(re.findall(r"vmbackup@(\w+)\.timer", said)) == WORKERS
    return tmp_path


def parse(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(path, encoding="utf-8")
    return parser


def test_the_service_calls_a_worker_as_the_owner_of_the_vms(units: Path) -> None:
    unit = parse(units / "vmbackup@.service")
    service = unit["Service"]
    assert service["ExecStart"] == "/usr/bin/env vmbackup-worker %i"
    for worker in WORKERS:
        assert command_lines.problem(f"vmbackup-worker {worker}") == ""
    assert service["User"] == getpass.getuser()
    assert unit["Unit"]["RequiresMountsFor"] == "/srv/nas"
    assert "VMOWNER" not in (units / "vmbackup@.service").read_text()


def test_the_service_leaves_virtualbox_alone(units: Path) -> None:
    service = parse(units / "vmbackup@.service")["Service"]
    assert service["KillMode"] == "process"
    assert service["PrivateTmp"] == "no"
    assert service["TimeoutStartSec"] == "infinity"
    assert "LC_ALL=C.UTF-8" in (units / "vmbackup@.service").read_text()
    assert not INHERITED & set(service), "VMs would inherit it"


def test_the_timer_catches_up_and_spreads_hosts(units: Path) -> None:
    timer = parse(units / "vmbackup@.timer")["Timer"]
    assert timer["Persistent"] == "yes"
    assert int(timer["RandomizedDelaySec"]) > 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_units(units: Path) -> None:
    for kind in ("service", "timer"):
        (units / f"vmbackup@backup.{kind}").write_bytes((units / f"vmbackup@.{kind}").read_bytes())
    names = [units / f"vmbackup@backup.{kind}" for kind in ("service", "timer")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_installer_refuses_what_a_unit_cannot_say(tmp_path: Path) -> None:
    for owner, nas in (
        ("no-such-user", "/srv/nas"),
        (getpass.getuser(), "srv/nas"),
        (getpass.getuser(), "/srv/my nas"),
    ):
        done = subprocess.run(
            [ROOT / "deploy/systemd/install", owner, nas, tmp_path],
            capture_output=True,
            check=False,
        )
        assert done.returncode != 0, (owner, nas)
    assert list(tmp_path.iterdir()) == []


def test_the_crontab_sets_what_virtualbox_needs_and_calls_a_worker() -> None:
    path = ROOT / "deploy/cron/vmbackup"
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert path.name.isalnum(), "cron passes over names with a dot"
    assert "LC_ALL=C.UTF-8" in lines
    (job,) = [line for line in lines if not re.match(r"\w+=", line)]
    match = re.fullmatch(r"\*/10( \*){4} VMOWNER (.+)", job)
    assert match
    assert match[2] == "vmbackup-worker run"
    assert command_lines.problem(match[2]) == ""


def test_launchd_gets_one_job_for_each_worker(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "deploy/launchd/install", getpass.getuser(), tmp_path],
        check=True,
        capture_output=True,
    )
    jobs = {path.name: plistlib.loads(path.read_bytes()) for path in tmp_path.iterdir()}
    assert sorted(jobs) == [f"vmbackup.{worker}.plist" for worker in WORKERS]
    for worker in WORKERS:
        job = jobs[f"vmbackup.{worker}.plist"]
        assert job["ProgramArguments"] == ["/usr/bin/env", "vmbackup-worker", worker]
        assert (job["Label"], job["UserName"]) == (f"vmbackup.{worker}", getpass.getuser())
        assert job["AbandonProcessGroup"] is True, (
            "launchd would end VirtualBox's service, and the VMs with it"
        )
        assert not {"Nice", "LowPriorityIO", "ProcessType"} & set(job), "VMs would inherit it"


def test_samples_name_the_same_mount_point() -> None:
    assert (
        f"RequiresMountsFor={EXAMPLE_MOUNTPOINT}\n"
        in (ROOT / "deploy/systemd/vmbackup@.service").read_text()
    )
