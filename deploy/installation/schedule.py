"""The schedule: which one there is, the files of the one that is wanted, and starting it."""

import re
import shutil
import subprocess
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from xml.sax.saxutils import escape

from deploy.installation.places import CLONE, InstallationError, Places

Kind = Literal["cron", "systemd", "launchd"]
WORKERS: Final = ("vmfind", "notifier", "backup", "verify", "database")
_DAY: Final = 24 * 60
_CALLS: Final = "vmbackup-worker"


@dataclass(frozen=True)
class Schedule:
    """Which schedule, for which owner of VMs, how often in minutes, and where the NAS is."""

    kind: Kind
    owner: str
    minutes: int
    nas: str


def minutes(text: str) -> int:
    """How often, from `10m` or `2h`.

    Raises `ArgumentTypeError` unless an hour or a day has it evenly.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,2})([mh])", text)
    if match:
        count = int(match[1])
        if match[2] == "m" and count < 60 and 60 % count == 0:
            return count
        if match[2] == "h" and _DAY % (60 * count) == 0:
            return 60 * count
    raise ArgumentTypeError(
        f"{text} is not like 10m or 2h: so many minutes as an hour has evenly, or so many hours "
        f"as a day has"
    )


def files(wanted: Schedule, places: Places) -> Mapping[Path, bytes]:
    """The files of a schedule, for that owner. Raises `InstallationError`."""
    if wanted.kind == "cron":
        return {places.cron: _cron(wanted).encode()}
    if wanted.kind == "systemd":
        return {places.units / name: text.encode() for name, text in _units(wanted).items()}
    return {
        places.jobs / f"vmbackup.{worker}.plist": _job(wanted, worker).encode()
        for worker in WORKERS
    }


def _cron(wanted: Schedule) -> str:
    text = (CLONE / "deploy/cron/vmbackup").read_text(encoding="utf-8")
    hours, rest = divmod(wanted.minutes, 60)
    when = f"0 */{hours}" if hours and not rest else f"*/{wanted.minutes} *"
    when = {_DAY: "0 0", 60: "0 *", 1: "* *"}.get(wanted.minutes, when)
    return text.replace("*/10 * * * * VMOWNER", f"{when} * * * {wanted.owner}")


def _units(wanted: Schedule) -> Mapping[str, str]:
    if not re.fullmatch(r"/[A-Za-z0-9/._-]*", wanted.nas):
        raise InstallationError(f"{wanted.nas} is no absolute path that a unit can name as it is")
    service, timer = (
        (CLONE / f"deploy/systemd/vmbackup@.{kind}").read_text(encoding="utf-8")
        for kind in ("service", "timer")
    )
    service = service.replace("User=VMOWNER", f"User={wanted.owner}")
    service = service.replace("RequiresMountsFor=/mnt/nas", f"RequiresMountsFor={wanted.nas}")
    hours, rest = divmod(wanted.minutes, 60)
    when = f"0/{hours}:00" if hours and not rest else f"*:0/{wanted.minutes}"
    when = "0:00" if wanted.minutes == _DAY else when
    timer = timer.replace("OnCalendar=*:0/10", f"OnCalendar={when}")
    timer = timer.replace("every ten minutes", f"every {wanted.minutes} minutes")
    return {"vmbackup@.service": service, "vmbackup@.timer": timer}


def _job(wanted: Schedule, worker: str) -> str:
    text = (CLONE / "deploy/launchd/vmbackup.worker.plist").read_text(encoding="utf-8")
    head, rest = text.split("<dict>", 1)
    rest = rest.replace("VMOWNER", escape(wanted.owner)).replace("WORKER", worker)
    seconds = f"<integer>{wanted.minutes * 60}</integer>"
    return f"{head}<dict>{rest.replace('<integer>600</integer>', seconds)}"


def others(wanted: Schedule | None, places: Places) -> list[Path]:
    """The files of other schedules that start workers on this host."""
    ours = set(files(wanted, places)) if wanted else set()
    found = [
        *places.units.glob("vmbackup*.timer"),
        *(places.root / "usr/local/lib/systemd/system").glob("vmbackup*.timer"),
        *places.jobs.glob("*vmbackup*.plist"),
        *(path for path in _crontabs(places, wanted) if _starts_workers(path)),
    ]
    return sorted(set(found) - ours)


def calling(directory: Path, places: Places) -> list[Path]:
    """The schedules on this host, of all users, that call a program of this directory by its path.

    Such a file is kept if somebody changed it, and what it calls must stay then.
    """
    spool = places.root / "var/spool/cron"
    found = [*_crontabs(places, None), *spool.glob("*"), *spool.glob("*/*")]
    found += [*places.units.glob("*"), *places.jobs.glob("*")]
    return sorted(path for path in found if _has(path, f"{directory}/"))


def _crontabs(places: Places, wanted: Schedule | None) -> list[Path]:
    found = [places.root / "etc/crontab", *(places.root / "etc/cron.d").glob("*")]
    if wanted:
        spool = places.root / "var/spool/cron"
        found += [spool / "crontabs" / wanted.owner, spool / wanted.owner]
    return found


def _starts_workers(path: Path) -> bool:
    return _has(path, _CALLS)


def _has(path: Path, text: str) -> bool:
    try:
        if not path.is_file():
            return False
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except PermissionError:
        return False  # only root may read it, and nobody else installs anything
    return any(text in line and not line.lstrip().startswith("#") for line in lines)


def starting(kind: Kind, places: Places) -> list[list[str]]:
    """The commands that start a schedule whose files are there; cron starts by itself."""
    if kind == "systemd":
        timers = [f"vmbackup@{worker}.timer" for worker in WORKERS]
        return [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", *timers]]
    if kind == "launchd":
        jobs = (places.jobs / f"vmbackup.{worker}.plist" for worker in WORKERS)
        return [["launchctl", "bootstrap", "system", str(job)] for job in jobs]
    return []


def stopping(places: Places) -> list[list[str]]:
    """The commands that stop the schedules whose files are there."""
    commands = []
    if (places.units / "vmbackup@.timer").exists():
        timers = [f"vmbackup@{worker}.timer" for worker in WORKERS]
        commands.append(["systemctl", "disable", "--now", *timers])
    jobs = sorted(places.jobs.glob("vmbackup.*.plist"))
    return commands + [["launchctl", "bootout", "system", str(job)] for job in jobs]


def runs_here(command: str) -> bool:
    """Whether systemd or launchd runs here: in a chroot their files lie there for later."""
    if command == "systemctl":
        return shutil.which(command) is not None and Path("/run/systemd/system").is_dir()
    return shutil.which(command) is not None


def call(command: list[str]) -> None:
    """Calls one of these. Raises `InstallationError` with what it said.

    launchctl refuses what is so already: that is looked at, and no failure.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return
    if command[0] == "launchctl":
        label = Path(command[-1]).stem
        asked = ["launchctl", "print", f"system/{label}"]
        loaded = subprocess.run(asked, capture_output=True, check=False).returncode == 0
        if loaded == (command[1] == "bootstrap"):
            return
    raise InstallationError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
