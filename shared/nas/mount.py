"""Is the NAS mounted, and does it answer? Asked before anything is read or written there.

A worker's tick asks once, at its start; an export asks again before it begins and before it
publishes. One question costs one child process (10 ms) and four calls to the server.
"""

import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.configuration import Nas
from shared.host.errors import NasError
from shared.host.processes import Completed, Runner, SubprocessRunner
from shared.host.waits import waiting
from shared.nas.nas_errors import full_hint
from shared.nas.writing import WRITE_TEST

_PROBE: Final = str(Path(__file__).with_name("probe.py"))
_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
#: File systems whose files are on a server.
NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs"})
#: `doctor` shows this, too, so it does not send there.
_REFUSED: Final = (
    "is the NAS mounted there, and may this user use it? Mount it, or correct "
    "nas.mountpoint; then work goes on by itself"
)
_DOCTOR: Final = "`vmbackup-admin doctor` examines the connection to the NAS"


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the kernel's mount table.

    `options` are all of them, the file system's, too. `device` is the file system's number, `root`
    the directory of it that is seen at `path`: not `/` if it is a bind mount.
    """

    path: str
    filesystem: str
    source: str
    options: tuple[str, ...]
    device: str = ""
    root: str = "/"


@dataclass(frozen=True, slots=True)
class NasStatus:
    """A NAS that answers. Sizes in bytes; `free` is what this user may still write.

    `mount` is None where the system has no mount table.
    """

    path: Path
    free: int
    total: int
    mount: Mount | None
    read_only: bool = False


def check_nas(
    nas: Nas,
    *,
    write: bool = False,
    reading: bool = False,
    runner: Runner | None = None,
    mounts: Path = _MOUNTS,
) -> NasStatus:
    """Make sure that the NAS is mounted, answers within `nas.probe_seconds`, and can be used.

    Mounted, unless the configuration says that it is a plain directory; not read-only, unless for
    `reading` alone; with `write`, a file can be created, synced and removed in `vmstate/`. Never
    blocks longer than the probe's limit and ten seconds, whatever the server does. Raises
    `NasError` with the cure.
    """
    file = os.path.join(nas.state.name, f"{WRITE_TEST}.{secrets.token_hex(6)}") if write else ""
    completed = _ask(nas.mountpoint, file, nas.probe_seconds, runner)
    real, by_device, read_only, *room = _answer(completed, nas.mountpoint)
    block, blocks, free = (int(value) for value in room)
    table = list(mount_table(mounts))
    mount = mount_of(real, table)
    if nas.require_mount and not _is_mounted(real, mount, by_device == "1"):
        raise _not_mounted(nas.mountpoint)
    if read_only == "1" and not reading:
        raise NasError(
            f"the NAS at {nas.mountpoint} is mounted read-only",
            hint="look at the server's disk and its export, then mount it again",
        )
    return NasStatus(Path(real), block * free, block * blocks, mount, read_only == "1")


def is_there(place: Path, seconds: float, *, runner: Runner | None = None) -> bool:
    """Whether there is a directory at `place`, which may be on a mount of its own.

    Never blocks longer than `seconds` and ten more.

    Raises `NasError` if it does not answer, or cannot be used.
    """
    completed = _ask(place, "", seconds, runner)
    if completed.stdout.startswith(f"error\t{errno.ENOENT}\t"):
        return False
    _answer(completed, place)
    return True


def mount_of(real: str, table: Sequence[Mount]) -> Mount | None:
    """The mount that `real` (a path without links) is on.

    The longest mount point above it, of equal ones the last mounted.
    """
    above = [
        mount
        for mount in table
        if real == mount.path or real.startswith(mount.path.rstrip("/") + "/")
    ]
    longest = max((len(mount.path) for mount in above), default=0)
    return next((mount for mount in reversed(above) if len(mount.path) == longest), None)


def parse_mounts(text: str) -> Iterator[Mount]:
    """The lines of /proc/self/mountinfo; what cannot be understood is left out."""
    for line in text.split("\n"):  # names may have whatever else ends a line
        left, dash, right = line.partition(" - ")
        fields, more = left.split(" "), right.split(" ")
        if dash and len(fields) >= 6 and len(more) >= 3:
            options = dict.fromkeys([*fields[5].split(","), *more[2].split(",")])
            yield Mount(
                _unescape(fields[4]),
                more[0],
                _unescape(more[1]),
                tuple(options),
                fields[2],
                _unescape(fields[3]),
            )


def mount_table(path: Path = _MOUNTS) -> Iterator[Mount]:
    """All mounts that this process sees, in the order in which they were made.

    None on a system that has no such table.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return  # no Linux: device numbers decide
    yield from parse_mounts(text)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def _is_mounted(real: str, mount: Mount | None, by_device: bool) -> bool:  # noqa: FBT001 - a private predicate
    """Whether something is mounted there.

    A bind mount has its parent's device number, so the mount table decides where there is one.
    autofs alone is no mount.
    """
    if mount is None:
        return by_device
    return mount.path == real and mount.filesystem != "autofs"


def _ask(place: Path, file: str, seconds: float, runner: Runner | None) -> Completed:
    arguments = [sys.executable, "-I", "-S", _PROBE, str(place), *([file] if file else [])]
    try:
        with waiting(f"the NAS at {place} to answer", seconds):
            completed = (runner or SubprocessRunner()).run(arguments, timeout_seconds=seconds)
    except OSError as error:
        raise NasError(f"cannot start the probe of the NAS: {error.strerror}") from None
    if completed.timed_out:
        raise NasError(
            f"the NAS at {place} did not answer within {seconds:g} seconds",
            hint=(
                f"is the server up, and the network? {_DOCTOR}; work goes on by itself when it "
                f"answers"
            ),
        )
    return completed


def _answer(completed: Completed, mountpoint: Path) -> list[str]:
    fields = completed.stdout.split("\t")
    if len(fields) == 3 and fields[0] == "error" and fields[1].isdigit():
        error = OSError(int(fields[1]), os.strerror(int(fields[1])), fields[2])
        raise NasError(
            f"the NAS at {mountpoint} cannot be used: {error.strerror} ({fields[2]})",
            hint=full_hint(error.errno) or _REFUSED,
        ) from error
    if (
        completed.status != 0
        or len(fields) != 6
        or not all(field.isdigit() for field in fields[1:])
    ):
        lines = completed.stderr.strip().splitlines() or ["it said nothing"]
        raise NasError(f"the probe of the NAS at {mountpoint} failed: {lines[-1]}", hint=_DOCTOR)
    return fields


def _not_mounted(mountpoint: Path) -> NasError:
    return NasError(
        f"nothing is mounted at {mountpoint}",
        hint=f"mount the NAS (`mount {mountpoint}`), or set nas.mountpoint to the directory "
        f"where it is mounted; "
        "nas.require_mount = false is only for a plain local directory",
    )
