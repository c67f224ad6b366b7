"""Directories where copies are mounted: which there are, whether they live, and their end.

The kernel's list of mounts says all of it, so nothing has to be remembered or cleaned up.
"""

import contextlib
import os
import shutil
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.errors import ConfigurationError, LockedError, UsageError
from shared.host.extras import require_extra
from shared.host.processes import Runner
from shared.serving.asking import Life, life_of

#: How our mounts are told from others.
SUBTYPE: Final = "vmbackup"
_TABLE: Final = Path("/proc/self/mounts")
_SECONDS: Final = 20.0
#: As many as Linux follows.
_LINKS: Final = 40
_DEVICE: Final = "/dev/fuse"


@dataclass(frozen=True, slots=True)
class MountedCopy:
    """A directory where a copy is mounted; `what` is VM and stamp."""

    place: str
    what: str

    @property
    def alive(self) -> bool:
        """Whether its server is there. One that hangs is, and is waited for before that is said."""
        return self.life() != Life.GONE

    def life(self) -> Life:
        """What its server is like: it is asked, and waited for at most `asking.ASK_SECONDS`."""
        return life_of(self.place)


def require_fuse(device: str = _DEVICE) -> None:
    """Raises `ConfigurationError`, with what to install, if nothing can be mounted here."""
    require_extra("mount", "mfusepy", "mfusepy", "copies are mounted by")
    if not (find_library("fuse3") or find_library("fuse")) or _program() is None:
        raise ConfigurationError(
            "copies are mounted by libfuse, which is not installed here",
            hint="Debian: apt install fuse3 libfuse3-3",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise ConfigurationError(
            f"{device} is not there, or not for this user",
            hint="modprobe fuse; in a container: give it the device",
        )


def mounted(table: Path = _TABLE, *, kind: str = SUBTYPE) -> list[MountedCopy]:
    """The copies that are mounted on this host, by servers of this kind."""
    found = []
    try:
        text = table.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return []
    for line in text.split("\n"):  # names may have whatever else ends a line
        source, place, system = (*line.split(" "), "", "", "")[:3]
        if system == f"fuse.{kind}":
            found.append(MountedCopy(_unescaped(place), _unescaped(source)))
    return found


def at(place: Path) -> MountedCopy | None:
    """The copy that is mounted at a directory, which may be named by a symbolic link.

    A directory that is in the list of mounts is not looked at: its server may hang.
    """
    found = {each.place: each for each in mounted()}
    for _ in range(_LINKS):
        if place.name in ("", ".."):
            return found.get(os.path.realpath(place))
        place = Path(os.path.realpath(place.parent), place.name)
        if str(place) in found:
            return found[str(place)]
        try:
            place = place.parent / place.readlink()
        except OSError:  # no link, or nothing is there
            return None
    return None


def free(place: Path, runner: Runner) -> Path:
    """The directory, empty and with nothing mounted: what a crash has left there is cleaned up.

    Raises `UsageError`.
    """
    found = at(Path(os.path.abspath(place)))
    if found is not None and not found.alive:
        unmount(found, runner, lazily=True)
    elif found is not None:
        raise UsageError(f"{place} has a copy already: {found.what}", hint="umount it first")
    if not place.is_dir():
        raise UsageError(f"{place} is no directory", hint="make it first")
    if any(place.iterdir()):
        raise UsageError(f"{place} is not empty", hint="mount into an empty directory")
    return Path(os.path.realpath(place))


def clean_up(runner: Runner) -> list[str]:
    """Unmounts what servers that died have left, as far as this user may. Answers the places."""
    gone = []
    for found in mounted():
        if not found.alive:
            with contextlib.suppress(LockedError):
                unmount(found, runner, lazily=True)
                gone.append(found.place)
    return gone


def unmount(found: MountedCopy, runner: Runner, *, lazily: bool = False) -> None:
    """Unmounts it; `lazily`: also while somebody has a file of it open.

    Raises `LockedError` if that does not work.
    """
    program = _program() or "fusermount3"
    words = [program, "-u", *(["-z"] if lazily else []), "--", found.place]
    try:
        done = runner.run(words, timeout_seconds=_SECONDS)
    except OSError as error:
        raise LockedError(
            f"{found.place} cannot be unmounted: {program} cannot be started: {error.strerror}",
            hint="Debian: apt install fuse3",
        ) from None
    if done.status:
        said = done.stderr.strip().splitlines()[-1:] or [f"status {done.status}"]
        raise LockedError(
            f"{found.place} cannot be unmounted: {said[0]}",
            hint="something is open there (`fuser -vm DIR`), or another user mounted it; "
            "--force unmounts it all the same",
        )


def unmount_below(folder: Path, runner: Runner) -> None:
    """Unmounts what is mounted below a folder, also while somebody has a file of it open.

    Raises `LockedError` if that does not work.
    """
    for found in mounted():
        if Path(found.place).is_relative_to(os.path.realpath(folder)):
            unmount(found, runner, lazily=True)


def _program() -> str | None:
    return shutil.which("fusermount3") or shutil.which("fusermount")


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
