"""`node/.look-<node>`: when a host last looked at its VMs, and how its workers ended.

One small file a host. `notifier` rewrites it in place at each tick, without a commit: a host that
is idle still shows that somebody looks. Its age is that of the file on the NAS. All times in it
that are compared are the NAS's own, so no host's clock is compared with another's.

A file that is lost, torn, somebody else's or of another machine says nothing: what it would have
told is unknown, never all right. A release that does not know it removes it after a day; the next
tick makes it again.
"""

import contextlib
import errno
import json
import logging
import math
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from shared.host.clock import Clock, timestamp
from shared.host.host_identity import HostIdentity
from shared.nas.reading import open_file, opened, plain
from shared.nas.writing import FILE_MODE, like_directory
from shared.state.records import NodeRecord

log: Final = logging.getLogger(__name__)

PREFIX: Final = ".look-"
SCHEMA: Final = 1
#: A thousand VMs take some 100 KiB.
LIMIT_BYTES: Final = 4 << 20
#: How many looks before the last one are remembered, to know how often this host looks.
_REMEMBERED: Final = 5
#: So many gaps between looks say how often a host looks: one alone may be between runs by hand.
_FEWEST_GAPS: Final = 2
#: How often a host looks of which that is not known yet.
UNKNOWN_INTERVAL_SECONDS: Final = 3600.0
#: Looks that follow one another sooner were by hand, and count as one.
SHORTEST_INTERVAL_SECONDS: Final = 60.0
#: A host is silent after so many of its own intervals.
SILENT_AFTER: Final = 3
#: A look may lie so far ahead of what a reader takes for the NAS's time.
TOLERANCE_SECONDS: Final = 300.0
#: Nothing of that name, or what somebody else has put there.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENXIO, errno.EISDIR, errno.ELOOP})


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker of the host last ended: its exit code, and when by the host's own clock."""

    code: int
    when: str


@dataclass(frozen=True, slots=True)
class HostLook:
    """What a host's file says. Times are seconds since the epoch by the NAS's clock.

    `looked` is the time of the file itself. `before` are the times of the looks before it, `since`
    when the unbroken series of looks began to which it belongs. `vms` has, by UUID, when each VM
    was last looked at, and `unchanged` when it was last found as its newest copy has it.
    """

    node: str
    machine: str
    looked: float
    written: float
    since: float
    before: tuple[float, ...] = ()
    workers: Mapping[str, WorkerEnd] = field(default_factory=dict)
    vms: Mapping[str, float] = field(default_factory=dict)
    unchanged: Mapping[str, float] = field(default_factory=dict)

    @property
    def interval_seconds(self) -> float:
        """How often this host looks, by its own last looks.

        The second longest of the gaps between them: neither one night off nor a few runs by hand
        change it. While there are but two, the longer one: the other may be of a run by hand.
        """
        gaps = [later - sooner for sooner, later in pairwise([*self.before, self.looked])]
        usable = sorted(gap for gap in gaps if gap >= SHORTEST_INTERVAL_SECONDS)
        if len(usable) < _FEWEST_GAPS:
            return UNKNOWN_INTERVAL_SECONDS
        return usable[-2 if len(usable) > _FEWEST_GAPS else -1]

    @property
    def nas_is_ahead_seconds(self) -> float:
        """How far the NAS's clock is ahead of this host's, as its last look showed."""
        return self.looked - self.written


@dataclass(frozen=True, slots=True)
class VmsSeen:
    """What a tick saw of VMs, by UUID.

    `known` are those that the database has of this host; `looked_at` those that the tick looked at;
    `unchanged` those of them that it found as their newest copy has them.
    """

    known: Collection[str]
    looked_at: Collection[str]
    unchanged: Collection[str]


def write_look(
    directory: Path,
    identity: HostIdentity,
    clock: Clock,
    seen: VmsSeen,
    workers: Mapping[str, WorkerEnd],
) -> None:
    """Writes this host's file in `directory`. Raises OSError.

    Read before it is written: what earlier looks found of VMs that this one did not see stays. A
    crash leaves the file as it was, or one that cannot be read and is made anew by the next tick.
    """
    former = read_look(directory, identity.node, identity.machine)
    document = {
        "schema": SCHEMA,
        "node": identity.node,
        "machine": identity.machine,
        "written": clock.now().timestamp(),
        "at": timestamp(clock.now()),
        **_continued(former, seen),
        "workers": {name: {"code": end.code, "when": end.when} for name, end in workers.items()},
    }
    data = json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with opened(directory) as parent:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(plain(PREFIX + identity.node), flags, FILE_MODE, dir_fd=parent)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise OSError(errno.EEXIST, "is no file of this program's", PREFIX + identity.node)
        with contextlib.suppress(OSError):  # a mount without rights of its own
            os.fchmod(descriptor, like_directory(FILE_MODE, directory))
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _continued(former: HostLook | None, seen: VmsSeen) -> dict[str, Any]:
    """What this look takes over from the one before. 0 stands for the time of this very look."""
    vms: dict[str, float] = dict.fromkeys(seen.looked_at, 0.0)
    unchanged: dict[str, float] = dict.fromkeys(seen.unchanged, 0.0)
    if former is None:
        return {"since": 0, "before": [], "vms": vms, "unchanged": unchanged}
    return {
        "since": former.since,
        "before": _remembered(former),
        "interval": former.interval_seconds,
        "vms": {**_of(seen.known, former.vms), **vms},
        "unchanged": {**_of(seen.known, former.unchanged), **unchanged},
    }


def _remembered(former: HostLook) -> list[float]:
    before = list(former.before)
    if before and former.looked - before[-1] < SHORTEST_INTERVAL_SECONDS:
        before.pop()
    return [*before, former.looked][-_REMEMBERED:]


def _of(known: Collection[str], times: Mapping[str, float]) -> dict[str, float]:
    return {uuid: time for uuid, time in times.items() if uuid in known}


def read_look(directory: Path, node: str, machine: str) -> HostLook | None:
    """What the file of a host says; None if there is none that can be read and is this machine's.

    Raises OSError if the NAS does not let us look.
    """
    try:
        file = open_file(directory / plain(PREFIX + node), follow=False)
    except ValueError:
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    with file:
        data = file.read(LIMIT_BYTES + 1)
        modified = os.fstat(file.fileno()).st_mtime
    try:
        look = _parsed(json.loads(data), modified)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None  # torn while it is rewritten, or not ours
    return look if (look.node, look.machine) == (node, machine) else None


def _parsed(document: Mapping[str, Any], looked: float) -> HostLook:
    """Raises ValueError, TypeError, KeyError or AttributeError for what no host has written."""
    if document["schema"] != SCHEMA:
        raise ValueError("of another kind")
    before = tuple(_time(value, looked) for value in document["before"])[-_REMEMBERED:]
    since = _time(document["since"], looked)
    gap = looked - before[-1] if before else 0.0
    interval = max(float(document.get("interval", UNKNOWN_INTERVAL_SECONDS)), 1.0)
    return HostLook(
        str(document["node"]),
        str(document["machine"]),
        looked,
        _number(document["written"]),
        looked if not before or gap > SILENT_AFTER * interval else since,
        before,
        {
            str(name): WorkerEnd(_code(end["code"]), str(end["when"])[:40])
            for name, end in list(document["workers"].items())[:32]
        },
        _times(document["vms"], looked),
        _times(document["unchanged"], looked),
    )


def _times(values: Mapping[str, Any], looked: float) -> dict[str, float]:
    return {str(uuid): _time(value, looked) for uuid, value in values.items()}


def _time(value: object, looked: float) -> float:
    """A time of the NAS; 0 stands for that of the file. One that lies ahead of it is no time."""
    number = _number(value)
    if number == 0:
        return looked
    if number > looked + TOLERANCE_SECONDS:
        raise ValueError("a look before this one lies ahead of it")
    return number


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("no number")
    return float(value)


def _code(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("no exit code")
    return value


def read_looks(directory: Path, nodes: Mapping[str, NodeRecord]) -> dict[str, HostLook | None]:
    """The files of all hosts of the database, by node. Raises OSError."""
    return {name: read_look(directory, name, record.machine) for name, record in nodes.items()}
