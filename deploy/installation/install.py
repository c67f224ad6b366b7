"""`deploy/install`: installs or updates the programs of this clone, and their schedule."""

import argparse
import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.installation import asking, files, release, schedule
from deploy.installation.files import Record
from deploy.installation.places import PROGRAMS, InstallationError, Places, Steps
from deploy.installation.schedule import Schedule

_SWITCH: Final = "--schedule"


def main(arguments: Sequence[str] | None = None, places: Places = Places()) -> int:  # noqa: B008 - frozen
    """Installs; the exit code: 0 done, 1 failed, 2 not possible in this way."""
    os.umask(0o022)  # of a shell with a strict one: every user must be able to run the programs
    options = _options(arguments)
    steps = Steps(options.dry_run)
    try:
        _require(options, places)
        wanted = Schedule(options.schedule, options.owner, options.every, options.nas or "/")
        if other := schedule.others(wanted, places):
            raise InstallationError(
                f"another schedule starts the workers already: {' '.join(map(str, other))}. "
                f"Two would do everything twice: remove it, or run deploy/uninstall first"
            )
        return _install(options, wanted, places, steps)
    except (InstallationError, OSError) as error:
        print(f"install: {error}", file=sys.stderr)
        return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="deploy/install",
        description="Installs vmbackup on this host, or updates it, from this clone. Keeps a "
        "configuration and files that were changed. Twice, it changes nothing.",
    )
    parser.add_argument("--owner", required=True, help="the user who owns the VMs")
    parser.add_argument(
        _SWITCH,
        required=True,
        choices=("cron", "systemd", "launchd"),
        help="what starts the workers",
    )
    parser.add_argument(
        "--nas", metavar="DIRECTORY", help="where the NAS is mounted, for a new host"
    )
    parser.add_argument(
        "--every", default="10m", type=schedule.minutes, help="how often, like 10m or 2h"
    )
    parser.add_argument("--python", metavar="FILE", help="the Python to use; else the system's")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=release.extras(),
        help="leave out an extra",
    )
    parser.add_argument("--dry-run", action="store_true", help="show each step, and do none")
    return parser.parse_args(arguments)


def _require(options: argparse.Namespace, places: Places) -> None:
    if os.geteuid() and not options.dry_run:
        raise InstallationError("only root may install: sudo deploy/install …, or --dry-run")
    try:
        pwd.getpwnam(options.owner)
    except KeyError:
        raise InstallationError(f"there is no user {options.owner} on this host") from None
    if not places.configuration.exists() and not options.nas:
        raise InstallationError("where is the NAS mounted? --nas DIRECTORY")
    if options.nas and not options.nas.startswith("/"):
        raise InstallationError(f"--nas {options.nas} is no absolute path")
    if options.nas and os.path.exists(options.nas) and not os.path.isdir(options.nas):
        raise InstallationError(f"--nas {options.nas} is no directory, where a NAS can be mounted")
    if options.nas and os.path.normpath(options.nas) in ("/", "//"):
        raise InstallationError(f"--nas {options.nas} is this host's own root, and no NAS")


def _install(options: argparse.Namespace, wanted: Schedule, places: Places, steps: Steps) -> int:
    python = release.system_python(options.python)
    made = places.releases / release.identify(python, options.without)
    record = Record.read(places)
    if not steps.dry:
        record.write()
    if not release.is_complete(made):
        steps.do(f"make {made} with {python}", lambda: release.make(made, python, options.without))
    nas = _configure(options.nas, made, record, steps)
    if (options.nas or release.is_complete(made)) and not os.path.ismount(nas):
        steps.say(f"note: nothing is mounted at {nas} now; workers wait until the NAS is")
    plan = schedule.files(Schedule(wanted.kind, wanted.owner, wanted.minutes, nas), places)
    _use(made, record, steps)
    for path, data in plan.items():
        files.put(record, steps, path, data)
    if not steps.dry:
        record.write()
    _start(wanted.kind, places, steps)
    callers = schedule.calling(places.top / "bin", places)
    for path in release.old(places, made.name):
        if callers and path.parent == places.top:
            steps.say(f"keep {path}: {callers[0]} calls it. Let that call /usr/local/bin instead")
            continue
        steps.do(f"remove {path}, which nothing uses", lambda path=path: release.remove(path))  # type: ignore[misc]
    if steps.dry:
        return 0
    return _examine(wanted.owner, places)


def _configure(nas: str | None, made: Path, record: Record, steps: Steps) -> str:
    """Makes a configuration if there is none; where it has the NAS.

    Raises `InstallationError` if the new programs refuse it: then the old ones stay in use.
    """
    path = record.places.configuration
    if not path.exists():

        def act() -> None:
            record.make_directory(path.parent)
            files.replace(path, asking.new_configuration(made, str(nas)))

        steps.do(f"write {path}, with the NAS at {nas}", act)
        if steps.dry:
            return str(nas)
    else:
        steps.say(f"keep {path}")
    if not release.is_complete(made):
        return nas or "/mnt/nas"
    found = asking.mount_point(made, path)
    if nas and Path(nas) != Path(found):
        raise InstallationError(f"{path} has the NAS at {found}, not at {nas}: change it there")
    return found


def _use(made: Path, record: Record, steps: Steps) -> None:
    """Makes the new programs those that are used, with all that is made from their commands."""
    places = record.places
    if not places.current.is_symlink() or places.current.resolve() != made.resolve():
        steps.do(f"use {made.name} from now on", lambda: release.switch(places, made))
    for program in PROGRAMS:
        files.link(record, steps, places.binary(program), places.current / "bin" / program)
    if release.is_complete(made):
        for path, data in asking.texts(made, places):
            files.put(record, steps, path, data)
    else:
        steps.say("would write man pages, completion for bash, zsh and fish, and the schema")


def _start(kind: schedule.Kind, places: Places, steps: Steps) -> None:
    for command in schedule.starting(kind, places):
        if schedule.runs_here(command[0]):
            steps.do(f"run {' '.join(command)}", lambda command=command: schedule.call(command))  # type: ignore[misc]
        else:
            steps.say(f"left to do, where {command[0]} runs: {' '.join(command)}")


def _examine(owner: str, places: Places) -> int:
    """What `doctor` says to the owner; it says by itself what to mend, and is no failure here."""
    print(f"\nvmbackup-admin doctor, as {owner}:", flush=True)
    found = asking.as_owner(owner, places.binary("vmbackup-admin"), "doctor")
    print(
        "\ninstalled; left to do: what doctor marks with FAIL, and on a new NAS, once, as "
        f"{owner}: vmbackup-admin init"
        if found
        else "\ninstalled; nothing is left to do"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
