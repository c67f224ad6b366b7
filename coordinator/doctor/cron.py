"""Does cron start the workers: is it there, does it read the file, and does it find the program?"""

import os
import pwd
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from coordinator.doctor.result import Check
from shared.host.processes import Runner

WORKER: Final = "vmbackup-worker"
_NAME: Final = "schedule"
_SECONDS: Final = 5.0
#: As cron's programs are called on Linux, macOS and in small containers.
DAEMONS: Final = frozenset({"cron", "crond", "fcron", "systemd-cron", "cronie", "supercronic"})
#: Cron passes over files in /etc/cron.d whose names have anything else.
_NAME_READ: Final = re.compile(r"[A-Za-z0-9_-]+")
#: Where cron looks for programs if its file does not say.
_CRON_PATH: Final = "/usr/bin:/bin"
_FIELDS_BEFORE_USER: Final = 5


def daemon() -> str:
    """The name of the cron that runs on this host; empty if there is none."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in DAEMONS:
            return str(process.info["name"])
    return ""


@dataclass(frozen=True, slots=True)
class CronHost:
    """The host that cron runs on.

    `daemon` answers the name of the cron that runs, empty if none does. `path`: where that looks
    for programs if its file does not say. `status` is asked whose a file is, and who may write it.
    """

    daemon: Callable[[], str] = daemon
    path: str = _CRON_PATH
    status: Callable[[Path], os.stat_result] = os.stat


THIS_HOST: Final = CronHost()


def examine(runner: Runner, files: Sequence[Path], host: CronHost = THIS_HOST) -> Iterator[Check]:
    """One line for all that names the worker in cron's files; nothing if none does."""
    places = []
    wrong: list[tuple[str, str]] = []
    for place in files:
        if lines := _read(place):
            places.append(str(place))
            wrong += _refused(place, host) or _cannot_run(str(place), lines, host, of_system=True)
    if lines := _crontab(runner):
        places.append("this user's crontab")
        wrong += _cannot_run("this user's crontab", lines, host, of_system=False)
    if not places:
        return
    if not (daemon := host.daemon()):
        wrong.append(
            (
                f"{', '.join(places)}: nothing reads it, because no cron runs on this host",
                "install and start cron (`systemctl enable --now cron`), or use systemd's timers",
            )
        )
    for what, hint in wrong:
        yield Check(_NAME, "warn", what, hint)
    if not wrong:
        yield Check(_NAME, "ok", f"{daemon} starts the workers: {', '.join(places)}")


def _read(place: Path) -> list[str]:
    """The lines of a file of cron, if one of them starts the worker."""
    try:
        lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return lines if _entries(lines) else []


def _crontab(runner: Runner) -> list[str]:
    try:
        completed = runner.run(["crontab", "-l"], timeout_seconds=_SECONDS)
    except OSError:
        return []
    lines = completed.stdout.splitlines()
    return lines if completed.status == 0 and _entries(lines) else []


def _entries(lines: Sequence[str]) -> list[str]:
    return [line.strip() for line in lines if WORKER in line and not line.lstrip().startswith("#")]


def _refused(place: Path, host: CronHost) -> list[tuple[str, str]]:
    """Why cron does not read a file of the system, and what to do."""
    status = host.status(place)
    owner, mode = status.st_uid, status.st_mode
    directory = place.parent.name == "cron.d"
    if directory and not _NAME_READ.fullmatch(place.name):
        return [(f"{place}: cron passes over a file of that name", "name it without a dot")]
    if owner or mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"{place}: cron reads it only if it belongs to root and nobody else may write it"
        return [(what, f"chown root {place} && chmod 644 {place}")]
    if not place.read_bytes().endswith(b"\n"):
        return [(f"{place}: its last line has no end, and cron ignores it", "add a line break")]
    return []


def _cannot_run(
    place: str, lines: Sequence[str], host: CronHost, *, of_system: bool
) -> list[tuple[str, str]]:
    """Why what stands in a file cannot be started."""
    path = next(
        (line.partition("=")[2].strip().strip("\"'") for line in lines if _sets_path(line)),
        host.path,
    )
    for entry in _entries(lines):
        words = entry.split()
        before = 1 if entry.startswith("@") else _FIELDS_BEFORE_USER
        if of_system and len(words) > before and not _is_user(words[before]):
            what = f"{place}: there is no user {words[before]} on this host"
            return [(what, "write the user who owns the VMs there")]
        program = next((word for word in words if word.endswith(WORKER)), "")
        if program and shutil.which(program, path=path) is None:
            what = f"{place}: cron does not find {program} in {path}"
            return [
                (
                    what,
                    "write its whole path there, or a line PATH=, as deploy/cron/vmbackup has it",
                )
            ]
    return []


def _sets_path(line: str) -> bool:
    return line.partition("=")[0].strip() == "PATH"


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
