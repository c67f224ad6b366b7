"""The units, jobs and crontab lines: they call what there is, in the way that VirtualBox needs."""

import configparser
import getpass
import plistlib
import re
import shutil
import subprocess
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from deploy.documents import ROOT
from deploy.installation import schedule
from deploy.installation.places import InstallationError, Places
from deploy.installation.schedule import Schedule
from shared.host.configuration.sample import EXAMPLE_MOUNTPOINT
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
    _write(Schedule("systemd", getpass.getuser(), 10, "/srv/nas"), tmp_path)
    reload, enable = schedule.starting("systemd", Places(tmp_path))
    assert reload == ["systemctl", "daemon-reload"]
    assert enable[:3] == ["systemctl", "enable", "--now"]
    assert sorted(enable[3:]) == [f"vmbackup@{worker}.timer" for worker in WORKERS]
    return tmp_path / "etc/systemd/system"


def _write(wanted: Schedule, root: Path) -> None:
    for path, data in schedule.files(wanted, Places(root)).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


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


@pytest.mark.broad
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_units(units: Path) -> None:
    for kind in ("service", "timer"):
        (units / f"vmbackup@backup.{kind}").write_bytes((units / f"vmbackup@.{kind}").read_bytes())
    names = [units / f"vmbackup@backup.{kind}" for kind in ("service", "timer")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mount_point_that_a_unit_cannot_name_is_refused(tmp_path: Path) -> None:
    for nas in ("srv/nas", "/srv/my nas", "/srv/nas\nUser=root"):
        with pytest.raises(InstallationError, match="no absolute path that a unit can name"):
            schedule.files(Schedule("systemd", "alice", 10, nas), Places(tmp_path))


@pytest.mark.parametrize(
    ("every", "cron", "timer"),
    [
        ("1m", "* * * * *", "*:0/1"),
        ("10m", "*/10 * * * *", "*:0/10"),
        ("1h", "0 * * * *", "0/1:00"),
        ("2h", "0 */2 * * *", "0/2:00"),
        ("24h", "0 0 * * *", "0:00"),
    ],
)
def test_how_often_is_the_same_for_cron_systemd_and_launchd(
    tmp_path: Path, every: str, cron: str, timer: str
) -> None:
    minutes = schedule.minutes(every)
    for kind in ("cron", "systemd", "launchd"):
        _write(Schedule(kind, "alice", minutes, "/mnt/nas"), tmp_path)  # type: ignore[arg-type]
    assert f"\n{cron} alice vmbackup-worker run\n" in (tmp_path / "etc/cron.d/vmbackup").read_text()
    unit = parse(tmp_path / "etc/systemd/system/vmbackup@.timer")
    assert unit["Timer"]["OnCalendar"] == timer
    job = tmp_path / "Library/LaunchDaemons/vmbackup.backup.plist"
    assert plistlib.loads(job.read_bytes())["StartInterval"] == minutes * 60


@pytest.mark.parametrize("every", ["7m", "0m", "60m", "5h", "10", "m", "10 m", "999h", "-5m"])
def test_what_neither_an_hour_nor_a_day_has_evenly_is_refused(every: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not like 10m or 2h"):
        schedule.minutes(every)


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
    _write(Schedule("launchd", getpass.getuser(), 10, "/mnt/nas"), tmp_path)
    jobs = {
        path.name: plistlib.loads(path.read_bytes())
        for path in (tmp_path / "Library/LaunchDaemons").iterdir()
    }
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
