"""Is this host set up: its own directory, its name, and somebody who starts the workers?"""

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from coordinator.doctor.result import Check
from shared.host.configuration import Configuration
from shared.host.host_identity import HostIdentity, own_machine_id, own_path
from shared.host.processes import Runner

WORKER: Final = "vmbackup-worker"
_FILES: Final = (
    "/etc/crontab",
    "/etc/cron.d/*",
    "/etc/systemd/system/vmbackup*.timer",
    "/usr/lib/systemd/system/vmbackup*.timer",
    "~/.config/systemd/user/vmbackup*.timer",
    "/Library/LaunchDaemons/*vmbackup*.plist",
    "~/Library/LaunchAgents/*vmbackup*.plist",
)


def examine(configuration: Configuration, path: Path | None) -> Iterator[Check]:
    """The configuration and this host's own directory. Raises OSError if that cannot be written."""
    yield Check("configuration", "ok", str(path) if path else "no file, environment only")
    directory = configuration.host.state_directory
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    if os.access(directory, os.W_OK | os.X_OK):
        yield Check("state directory", "ok", str(directory))
    else:
        yield Check(
            "state directory",
            "fail",
            f"{directory} cannot be written",
            "set host.state_directory to a local one that can",
        )
    yield from _machine(directory)


def _machine(directory: Path) -> Iterator[Check]:
    """Says so where the system has no machine id, as in most containers.

    Two of them with one name are told apart by our own.
    """
    if not HostIdentity.of_this_machine("").machine:
        own = own_machine_id(directory, make=False)
        known = (
            f"it is known by {own_path(directory)}"
            if own
            else f"the first worker makes one in {own_path(directory)}"
        )
        hint = "keep that file for as long as the machine lives; give it to no other"
        yield Check("machine", "ok", f"the system has no machine id; {known}: {hint}")


def examine_schedule(runner: Runner, files: tuple[str, ...] = _FILES) -> Iterator[Check]:
    """Whether cron, systemd or launchd starts the workers.

    A schedule that is not there is the commonest silent failure.
    """
    places = [
        place
        for pattern in files
        for place in glob.glob(os.path.expanduser(pattern))
        if _names_worker(place)
    ]
    if _crontab(runner):
        places.append("this user's crontab")
    if places:
        yield Check("schedule", "ok", ", ".join(sorted(places)))
    else:
        seen = "neither cron nor systemd nor launchd starts vmbackup-worker on this host"
        yield Check(
            "schedule",
            "warn",
            seen,
            "no backup is made until one does: deploy/ has files for each of them",
        )


def _names_worker(place: str) -> bool:
    if place.endswith((".timer", ".plist")):
        return True
    try:
        lines = Path(place).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return _mentions(lines)


def _crontab(runner: Runner) -> bool:
    try:
        completed = runner.run(["crontab", "-l"], timeout_seconds=10)
    except OSError:
        return False
    return completed.status == 0 and _mentions(completed.stdout.splitlines())


def _mentions(lines: list[str]) -> bool:
    return any(WORKER in line and not line.lstrip().startswith("#") for line in lines)


def platform() -> Check:
    """The interpreter, for reports of faults."""
    return Check("Python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
