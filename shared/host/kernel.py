"""What the kernel says of processes and this machine, whatever happens to the wall clock.

The time at which a process started is known to the kernel as a count since boot. psutil and `ps`
add the time of boot to it, which moves whenever the wall clock is set: by hand, by NTP, after an
hour of a wrong time zone. So that sum tells two processes apart only for people.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

PROC: Final = Path("/proc")
#: No system numbers its processes so high; zero and below are no process's number, but mean many of
#: them to `kill`.
PROCESS_LIMIT: Final = 2**31

#: Prints what a command prints; an empty text if it cannot be run.
Ask = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Look:
    """A process as it is now.

    `born` is when it started (`born_differ` compares); empty where the system has no such count.
    """

    born: str
    ended: bool


def exists(pid: int) -> bool:
    """Whether there is a process of this number, seen or not (`hidepid`).

    A number that cannot be one is in doubt: True.
    """
    if not 0 < pid < PROCESS_LIMIT:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def look(pid: int, proc: Path = PROC, platform: str = sys.platform) -> Look | None:
    """The process of this number; None if it cannot be seen.

    `ended`: a zombie that nobody has waited for.
    """
    if platform != "linux":
        try:
            return Look("", psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except (psutil.Error, ValueError, OverflowError):
            return None
    try:
        data = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = data.rpartition(b")")[
        2
    ].split()  # the name before may hold anything; what follows is field 3 and so on
    if len(fields) < 20 or not fields[19].isdigit():
        return None
    return Look(
        f"{fields[19].decode('ascii')}@{_link(proc / 'self' / 'ns' / 'time')}",
        fields[0] in (b"Z", b"X"),
    )


def born_differ(one: str, other: str) -> bool:
    """Whether two processes certainly started at different moments.

    Counts are not compared across time namespaces, which shift them.
    """
    (ticks, space), (others, elsewhere) = one.partition("@")[::2], other.partition("@")[::2]
    return bool(ticks and others) and space == elsewhere and ticks != others


def boot_id(ask: Ask, proc: Path = PROC, platform: str = sys.platform) -> str:
    """What the kernel calls the time since the last boot; empty if it has no name for it.

    The moment of boot is none: it moves.
    """
    if platform == "darwin":
        return ask(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]).strip()
    try:
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def boots_differ(one: str, other: str) -> bool:
    """Whether two boots are certainly not the same.

    A number is a moment of boot by the wall clock, as older programs noted it.
    """
    return bool(one and other) and one != other and not one.isdecimal() and not other.isdecimal()


def process_space(proc: Path = PROC) -> str:
    """The process-number space: a container has its own."""
    return _link(proc / "self" / "ns" / "pid")


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def available_cores() -> int:
    """The processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
