"""`deploy/uninstall`: removes all that was installed, but neither settings, copies nor database."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.installation import asking, files, release, schedule
from deploy.installation.files import Record
from deploy.installation.places import PROGRAMS, InstallationError, Places, Steps


def main(arguments: Sequence[str] | None = None, places: Places = Places()) -> int:  # noqa: B008 - frozen
    """Removes; the exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="deploy/uninstall",
        description="Removes vmbackup from this host. Configuration, copies and database stay.",
    )
    parser.add_argument("--dry-run", action="store_true", help="show each step, and do none")
    options = parser.parse_args(arguments)
    steps = Steps(options.dry_run)
    try:
        if os.geteuid() and not options.dry_run:
            raise InstallationError("only root may uninstall: sudo deploy/uninstall, or --dry-run")
        return _uninstall(places, steps)
    except (InstallationError, OSError) as error:
        print(f"uninstall: {error}", file=sys.stderr)
        return 1


def _uninstall(places: Places, steps: Steps) -> int:
    stays = _what_stays(places)
    for command in schedule.stopping(places):
        if schedule.runs_here(command[0]):
            steps.do(f"run {' '.join(command)}", lambda command=command: schedule.call(command))  # type: ignore[misc]
    record = Record.read(places)
    _stop_schedule(record, steps)
    if busy := release.users(places.top):
        processes = ", ".join(map(str, busy))
        if not steps.dry:
            raise InstallationError(
                f"workers still run (process {processes}), and no new ones start: run this again "
                f"when they have ended, or send them SIGTERM"
            )
        steps.say(f"would stop here until the workers that run now have ended: process {processes}")
    files.take_away(record, steps)
    for program in PROGRAMS:  # those of an installation by hand
        path = places.binary(program)
        ours = path.is_symlink() and Path(os.readlink(path)).is_relative_to(places.top)
        if ours and str(path) not in record.files:
            steps.do(f"remove {path}", path.unlink)
    if places.top.exists():
        steps.do(f"remove {places.top}", lambda: release.remove(places.top))
    if not steps.dry:
        _remove_empty(record)
    print(stays)
    return 0


def _stop_schedule(record: Record, steps: Steps) -> None:
    """Takes the schedule away first, so that no worker starts while its program goes.

    Also one that was put there by hand, which is kept as if it had been changed.
    """
    places = record.places
    own = [places.cron, *places.units.glob("vmbackup@.*"), *places.jobs.glob("vmbackup.*.plist")]
    schedules = {str(path): record.files.get(str(path), "") for path in own if path.exists()}
    files.take_away(Record(places, schedules), steps)
    record.files = {name: known for name, known in record.files.items() if name not in schedules}


def _remove_empty(record: Record) -> None:
    """The directories that an installation had made, as far as nothing else is in them."""
    for name in reversed(record.directories):
        try:
            os.rmdir(name)
        except OSError:
            continue


def _what_stays(places: Places) -> str:
    try:
        nas = asking.mount_point(places.current, places.configuration)
    except (InstallationError, OSError):
        nas = "the NAS"
    return (
        f"these stay: the configuration {places.configuration}; the copies in {nas} and the state "
        f"database in {nas}/vmstate; what this host knows of them, in ~/.local/state/vmbackup of "
        f"the owner"
    )


if __name__ == "__main__":
    sys.exit(main())
