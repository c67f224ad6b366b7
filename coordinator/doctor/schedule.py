"""Does a schedule really start the workers: systemd, launchd, or cron?

A schedule that is not there, or that lies there and does nothing, is the commonest silent failure.
"""

import glob
import os
import plistlib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final

from coordinator.doctor import cron
from coordinator.doctor.result import Check
from shared.host.processes import Completed, Runner

_NAME: Final = "schedule"
#: How long systemctl, launchctl or crontab may take.
_SECONDS: Final = 5.0
_WORKERS: Final = ("vmfind", "notifier", "backup", "verify", "database")
_TIMERS: Final = (
    "/etc/systemd/system/vmbackup*.timer",
    "/usr/local/lib/systemd/system/vmbackup*.timer",
    "/usr/lib/systemd/system/vmbackup*.timer",
    "~/.config/systemd/user/vmbackup*.timer",
)
_JOBS: Final = (
    "/Library/LaunchDaemons/*vmbackup*.plist",
    "~/Library/LaunchAgents/*vmbackup*.plist",
)
_CRON: Final = ("/etc/crontab", "/etc/cron.d/*")


def examine(
    runner: Runner,
    patterns: tuple[str, ...] = (*_TIMERS, *_JOBS, *_CRON),
    host: cron.CronHost = cron.THIS_HOST,
) -> Iterator[Check]:
    """One line for each schedule that is there, and what it lacks; one if there is none."""
    places = [
        Path(place)
        for pattern in patterns
        for place in sorted(glob.glob(os.path.expanduser(pattern)))
    ]
    timers = [place for place in places if place.suffix == ".timer"]
    jobs = [place for place in places if place.suffix == ".plist"]
    files = [place for place in places if place not in (*timers, *jobs)]
    found = list(
        chain(
            _systemd(runner, timers),
            _launchd(runner, jobs),
            cron.examine(runner, files, host),
        )
    )
    yield from found
    if not found:
        yield Check(
            _NAME,
            "warn",
            "neither cron nor systemd nor launchd starts vmbackup-worker on this host",
            "no backup is made until one does: deploy/ has files for each of them",
        )


def _systemd(runner: Runner, timers: list[Path]) -> Iterator[Check]:
    for user in (False, True):
        units = [
            unit
            for place in timers
            if (place.parent.name == "user") == user
            for unit in _instances(place.name)
        ]
        if units:
            yield _timers(runner, list(dict.fromkeys(units)), user=user)


def _instances(name: str) -> list[str]:
    """The units of a file: of a template, one for each worker."""
    stem = name.removesuffix(".timer")
    return [f"{stem}{worker}.timer" for worker in _WORKERS] if stem.endswith("@") else [name]


def _timers(runner: Runner, units: list[str], *, user: bool) -> Check:
    systemctl = ["systemctl", "--user"] if user else ["systemctl"]
    command = " ".join(systemctl)
    completed = _ask(runner, *systemctl, "show", "--property=Id,ActiveState,UnitFileState", *units)
    states = _properties(completed.stdout) if completed else {}
    if not states:
        said = completed.stderr.strip() if completed else "it cannot be started"
        return Check(
            _NAME,
            "warn",
            f"there are timers of systemd, and {command} does not answer: {said}",
            "if systemd does not run here, start the workers by cron",
        )
    still = [unit for unit in units if states.get(unit, {}).get("ActiveState") != "active"]
    if still:
        return Check(
            _NAME,
            "warn",
            f"these timers of systemd are installed and not started: {', '.join(still)}",
            f"{command} enable --now {' '.join(still)}",
        )
    passing = [unit for unit in units if states[unit].get("UnitFileState") != "enabled"]
    if passing:
        return Check(
            _NAME,
            "warn",
            f"these timers run, and do not after the next start: {', '.join(passing)}",
            f"{command} enable {' '.join(passing)}",
        )
    return Check(_NAME, "ok", f"systemd starts the workers: {', '.join(units)}")


def _properties(text: str) -> Mapping[str, Mapping[str, str]]:
    """What `systemctl show` says of several units, by the unit."""
    blocks = [
        dict(line.partition("=")[::2] for line in block.splitlines())
        for block in text.split("\n\n")
    ]
    return {block["Id"]: block for block in blocks if "Id" in block}


def _launchd(runner: Runner, jobs: list[Path]) -> Iterator[Check]:
    if not jobs:
        return
    unloaded = []
    for place in jobs:
        domain = "system" if place.parent.name == "LaunchDaemons" else f"gui/{os.geteuid()}"
        completed = _ask(runner, "launchctl", "print", f"{domain}/{_label(place)}")
        if completed is None or completed.status:
            unloaded.append(f"launchctl bootstrap {domain} {place}")
    if unloaded:
        yield Check(
            _NAME,
            "warn",
            f"{len(unloaded)} of {len(jobs)} jobs of launchd are not loaded",
            "; ".join(unloaded),
        )
    else:
        yield Check(_NAME, "ok", f"launchd starts the workers: {', '.join(map(str, jobs))}")


def _label(place: Path) -> str:
    """The label that the file gives to its job; what cannot be read is called like its file."""
    try:
        document = plistlib.loads(place.read_bytes())
    except (OSError, ValueError, plistlib.InvalidFileException):
        return place.stem
    label = document.get("Label") if isinstance(document, dict) else None
    return label if isinstance(label, str) else place.stem


def _ask(runner: Runner, *command: str) -> Completed | None:
    """None if the program cannot be started."""
    try:
        return runner.run(command, timeout_seconds=_SECONDS)
    except (OSError, ValueError):
        return None
