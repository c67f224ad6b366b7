"""Directories where copies are mounted: which there are, whether they live, and their end.

The kernel's list of mounts says all of it, so nothing has to be remembered or cleaned up; but for
those whose files are mounted one by one, which have a note (see `noted_places`).
"""

import contextlib
import ctypes
import os
import shutil
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.errors import ConfigurationError, LockedError, UsageError
from shared.host.extras import require_extra
from shared.host.processes import Runner
from shared.serving import mount_table, noted_places, refusals, server_ending
from shared.serving.asking import Life, life_of
from shared.serving.refusals import of_another, unmountable

#: How our mounts are told from others.
SUBTYPE: Final = "vmbackup"
#: How single files are told that are mounted in a directory with a note.
FILE_SUBTYPE: Final = "vmbackup-file"
_TABLE: Final = Path("/proc/self/mounts")
_SECONDS: Final = 20.0
#: Whose server has ended says so at once; one that hangs is left alone.
_LOOK_SECONDS: Final = 1.0
#: As many as Linux follows.
_LINKS: Final = 40
_DEVICE: Final = "/dev/fuse"


class NoDeviceError(ConfigurationError):
    """Nothing can be mounted here, by whatever program."""


@dataclass(frozen=True, slots=True)
class MountedCopy:
    """A directory where a copy is mounted; `what` is VM and stamp.

    If its files are mounted one by one, these are they; `noted`: it is such a one. `owner` is who
    mounted it, as the kernel has it; None if that is not known.
    """

    place: str
    what: str
    files: tuple[str, ...] = ()
    noted: bool = False
    owner: int | None = None

    @property
    def alive(self) -> bool:
        """Whether its server is there. One that hangs is, and is waited for before that is said."""
        return self.life() != Life.GONE

    def life(self, seconds: float | None = None) -> Life:
        """What its server is like: asked, and waited for so long (`asking.ASK_SECONDS`) at most."""
        if not self.noted:
            return life_of(self.place, seconds=seconds)
        return server_ending.life_of_noted(self.place) if self.own else Life.SERVED  # not ours

    @property
    def own(self) -> bool:
        """Whether it is of the user who runs this; those of others are not root's either."""
        return self.owner == os.geteuid()


def require_fuse(device: str = _DEVICE) -> None:
    """Raises `ConfigurationError`, with what to install, if our servers mount nothing here."""
    require_extra("mount", "mfusepy", "mfusepy", "copies are mounted by")
    if not (_loads("fuse3") or _loads("fuse")) or _program() is None:
        raise ConfigurationError(
            "copies are mounted by libfuse, which is not installed here",
            hint="Debian: apt install fuse3 libfuse3-3",
        )
    require_device(device)


def require_device(device: str = _DEVICE) -> None:
    """Raises `NoDeviceError` if the kernel mounts nothing for this user."""
    if not os.access(device, os.R_OK | os.W_OK):
        raise NoDeviceError(
            f"{device} is not there, or not for this user",
            hint="modprobe fuse; in a container: give it the device",
        )


def mounted(table: Path = _TABLE, *, kind: str = SUBTYPE) -> list[MountedCopy]:
    """The copies that are mounted on this host, by servers of this kind."""
    found, single = [], dict[tuple[str, str, int | None], list[str]]()
    for row in mount_table.read(table):
        if row.system == f"fuse.{kind}":
            found.append(MountedCopy(row.place, row.source, owner=row.owner))
        elif (kind, row.system) == (SUBTYPE, f"fuse.{FILE_SUBTYPE}"):
            key = (os.path.dirname(row.place), row.source, row.owner)
            single.setdefault(key, []).append(row.place)
    noted = (
        MountedCopy(place, source, tuple(files), noted=True, owner=owner)
        for (place, source, owner), files in single.items()
    )
    return [*found, *noted]


def at(place: Path) -> MountedCopy | None:
    """The copy that is mounted at a directory, which may be named by a symbolic link.

    A directory that is in the list of mounts is not looked at: its server may hang.
    """
    found = {each.place: each for each in sorted(mounted(), key=lambda each: each.own)}
    for _ in range(_LINKS):
        if place.name in ("", ".."):
            place = Path(os.path.realpath(place))
            return found.get(str(place)) or _left(place)
        place = Path(os.path.realpath(place.parent), place.name)
        if str(place) in found:
            return found[str(place)]
        try:
            place = place.parent / place.readlink()
        except OSError:  # no link, or nothing is there
            return _left(place)
    return None


def _left(place: Path) -> MountedCopy | None:
    """What is there of a copy whose files are mounted one by one, and of which none is."""
    if (note := noted_places.read(place)) is not None:
        return MountedCopy(str(place), note.what, noted=True, owner=os.geteuid())
    owner = noted_places.owner(place)
    if owner in (None, os.geteuid()):
        return None
    return MountedCopy(str(place), "a copy", noted=True, owner=owner)


def free(place: Path, runner: Runner) -> Path:
    """The directory, empty and with nothing mounted: what a crash has left there is cleaned up.

    A server there that does not answer is not waited for. Raises `UsageError`.
    """
    found = at(Path(os.path.abspath(place)))
    if found is not None:
        if (life := found.life(_LOOK_SECONDS)) != Life.GONE:
            raise refusals.taken(found.place, found.what, hangs=life == Life.HANGS)
        unmount(found, runner, lazily=True)
    if not place.is_dir():
        raise UsageError(f"{place} is no directory", hint="make it first")
    if any(place.iterdir()):
        raise UsageError(f"{place} is not empty", hint="mount into an empty directory")
    return Path(os.path.realpath(place))


def clean_up(runner: Runner) -> list[str]:
    """Unmounts what servers of this user that died have left. Answers the places.

    One that hangs is not waited for. Those of others are not looked at, by root neither: at their
    path may lie another directory by the time.
    """
    gone = []
    for found in mounted():
        if found.own and found.life(_LOOK_SECONDS) == Life.GONE:
            with contextlib.suppress(LockedError):
                unmount(found, runner, lazily=True)
                gone.append(found.place)
    return gone


def unmount(found: MountedCopy, runner: Runner, *, lazily: bool = False) -> None:
    """Unmounts it; `lazily`: also while somebody has a file of it open.

    Raises `LockedError` if that does not work.
    """
    require_own(found)
    if found.noted and not lazily and any(map(noted_places.is_open, found.files)):
        raise refusals.open_file(found.place)  # else some would be gone
    for place in found.files if found.noted else (found.place,):
        try:
            _unmount(place, runner, lazily=lazily)
        except LockedError:
            if not found.noted or any(place in each.files for each in mounted()):
                raise  # else the server was quicker
    if found.noted:
        _end(found, by_force=lazily)


def require_own(found: MountedCopy) -> None:
    """Raises `LockedError` for what is of another user; for files of one, for root too.

    At their path may lie others. A directory that is mounted as a whole, root may unmount as
    anything.
    """
    known = found.owner is not None and os.geteuid() != 0
    if not found.own and (found.noted or known):
        raise of_another(found.place, found.owner)


def _end(found: MountedCopy, *, by_force: bool) -> None:
    """Waits for the end of a server whose files are gone."""
    place = Path(found.place)
    server = server_ending.server_of(found.place) if by_force else None
    stopped = server is not None and server_ending.stopped_in(server)
    if not stopped and noted_places.clear(place):
        return
    if server is None or not server_ending.kill(server) or not noted_places.clear(place):
        raise unmountable(found.place, "its server does not end", "--force kills it")


def unmount_file(place: str, runner: Runner) -> None:
    """Unmounts a single file, also while somebody has it open. Raises `LockedError`."""
    _unmount(place, runner, lazily=True)


def _unmount(place: str, runner: Runner, *, lazily: bool) -> None:
    program = _program() or "fusermount3"
    words = [program, "-u", *(["-z"] if lazily else []), "--", place]
    try:
        done = runner.run(words, timeout_seconds=_SECONDS)
    except OSError as error:
        said = f"{program} cannot be started: {error.strerror}"
        raise unmountable(place, said, "Debian: apt install fuse3") from None
    if done.status:
        said = (done.stderr.strip().splitlines()[-1:] or [f"status {done.status}"])[0]
        raise refusals.refused(place, said, by_force=lazily)


def unmount_below(folder: Path, runner: Runner) -> None:
    """Unmounts what is mounted below a folder, also while somebody has a file of it open.

    Raises `LockedError` if that does not work.
    """
    for found in mounted():
        if Path(found.place).is_relative_to(os.path.realpath(folder)):
            unmount(found, runner, lazily=True)


def _loads(library: str) -> bool:
    """Whether it is there, and this program can use it."""
    name = find_library(library)
    try:
        return name is not None and bool(ctypes.CDLL(name))
    except OSError:
        return False


def _program() -> str | None:
    return shutil.which("fusermount3") or shutil.which("fusermount")
