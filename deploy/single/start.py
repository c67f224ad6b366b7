"""What the single file does first: does it fit, is it unpacked, and which program is meant.

It is `__main__` of the file, so it has no module of ours, and is written so that an old Python can
still say that it is too old.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import stat
import sys
import sysconfig
import zipfile

PROGRAMS = {"admin": "coordinator.admin", "lock": "coordinator.lock", "worker": "worker.cli"}


def main() -> None:
    """Replaces this process by the program that is meant."""
    archive = os.path.abspath(sys.argv[0] if zipfile.is_zipfile(sys.argv[0]) else sys.path[0])
    with zipfile.ZipFile(archive) as packed:
        made = json.loads(packed.read("made.json").decode("utf-8"))
        python = ".".join(str(number) for number in sys.version_info[:2])
        here = {"python": python, "platform": sysconfig.get_platform()}
        if any(here[name] != made[name] for name in here):
            raise refused(
                f"{archive} was made for Python {made['python']} on {made['platform']}, and this "
                f"is Python {python} on {here['platform']}: get the file that was made for it, or "
                f"make one by `make dist`"
            )
        program, arguments = meant(os.path.basename(sys.argv[0]), sys.argv[1:])
        modules = unpacked(packed, made["digest"])
    # what workers start in turn finds the modules in the same way
    environment = dict(os.environ, PYTHONPATH=modules)
    os.execve(sys.executable, [sys.executable, "-P", "-m", program, *arguments], environment)


def meant(name: str, arguments: list[str]) -> tuple[str, list[str]]:
    """The program, by the name of the file or of a link to it, else by the first word."""
    by_name = name[len("vmbackup-") :] if name.startswith("vmbackup-") else ""
    if by_name in PROGRAMS:
        return PROGRAMS[by_name], arguments
    if arguments and arguments[0] in PROGRAMS:
        return PROGRAMS[arguments[0]], arguments[1:]
    usage = f"usage: {name} admin|lock|worker COMMAND ..., for instance: {name} admin --help"
    if arguments in (["--help"], ["-h"]):
        print(usage)
        sys.exit(0)
    raise refused(usage)


def refused(reason: str) -> SystemExit:
    """Says why it cannot go on: the end with the exit code of a wrong command or configuration."""
    print(reason, file=sys.stderr)
    return SystemExit(2)


def unpacked(packed: zipfile.ZipFile, digest: str) -> str:
    """The directory with the modules, which one user of this machine unpacks once.

    It appears under its name when it is complete. Of a directory that others could have made or
    could change nothing is used.
    """
    top = cache()
    place = os.path.join(top, digest)
    if not os.path.isdir(place):
        new = f"{place}.{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)
        names = [name for name in packed.namelist() if name.startswith("modules/")]
        try:
            packed.extractall(new, names)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise refused(
                f"cannot unpack into {top}: {error.strerror}; make room there, or set HOME"
            ) from None
        try:
            os.rename(new, place)
        except OSError:  # another one was faster
            shutil.rmtree(new, ignore_errors=True)
            if not os.path.isdir(place):
                raise
    return os.path.join(place, "modules")


def cache() -> str:
    """A directory of this user alone, also for one who has no home. Exits if it cannot be had."""
    try:
        home = os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = ""
    usable = os.path.isabs(home) and os.path.isdir(home) and os.access(home, os.W_OK)
    without = f"/var/tmp/vmbackup-{os.geteuid()}"
    top = os.path.join(home, ".cache/vmbackup") if usable else without
    try:
        os.makedirs(os.path.dirname(top), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(top, 0o700)
    except OSError as error:
        raise refused(
            f"cannot make {top}, where it is unpacked: {error.strerror}; set HOME to another"
        ) from None
    found = os.lstat(top)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise refused(f"{top} does not belong to this user alone: it is not used")
    return top


if __name__ == "__main__":
    main()
