"""`node/.look-<node>`: when a host last looked at its VMs, and how its workers ended.

One small file a host. `notifier` rewrites it in place at each tick, without a commit: a host that
is idle still shows that somebody looks. Its age is that of the file on the NAS. All times in it
that are compared are the NAS's own, so no host's clock is compared with another's.

A file that is lost, torn, somebody else's or of another machine says nothing: what it would have
told is unknown, never all right. A release that does not know it removes it after a day; the next
tick makes it again.
"""

import errno
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from shared.host.clock import parse_timestamp
from shared.host.documents import load
from shared.nas.reading import open_file, plain
from shared.state.host_records import NodeRecord

log: Final = logging.getLogger(__name__)

PREFIX: Final = ".look-"
SCHEMA: Final = 1
#: A thousand VMs take some 100 KiB.
LIMIT_BYTES: Final = 4 << 20
#: How many looks before the last one are remembered, to know how often this host looks.
_REMEMBERED: Final = 5
#: So many breaks are remembered, and for so long.
BREAKS: Final = 200
BREAKS_SECONDS: Final = 70 * 86400.0
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
#: No time lies behind this one, in the year 3058: sums of two are times of a calendar, too.
_LATEST: Final = 1 << 35
#: Those of programs; negative: the signal that ended one.
_CODES: Final = range(-128, 256)
#: Numbers of processes; 0: of none.
_PIDS: Final = range(1 << 31)
#: The worker that tells people.
TELLER: Final = "tell"
#: So many VMs that do not get on are told of, and so much of why.
MOST_STUCK: Final = 100
LONGEST_WHY: Final = 200
#: Nothing of that name, or what somebody else has put there.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENXIO, errno.EISDIR, errno.ELOOP})


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker of the host last ended: its exit code, and when by the host's own clock."""

    code: int
    when: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why a VM that runs from a copy does not get on.

    `why` is "unserved" (nothing serves its disks), "unmerged" (they need no server, and it keeps a
    snapshot), "silent" (nothing is heard of its server), each with "_on" behind it while the VM is
    on; "stopped" (its server was), "unlisted" (VirtualBox has it no more), "unnoted" (nothing is
    noted of it on its host), "unread" (its guest waits for what cannot be read), "room" (for `said`
    bytes of its disks there is none) or "problem"; `said` says more. `pid` is its server; 0: that
    is not known, or does not matter.
    """

    why: str
    said: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class HostLook:
    """What a host's file says. Times are seconds since the epoch by the NAS's clock.

    `looked` is the time of the file itself. `before` are the times of the looks before it, `since`
    when the unbroken series of looks began to which it belongs. `vms` has, by UUID, when each VM
    was last looked at, and `unchanged` when it was last found as its newest copy has it. `breaks`
    are the times between two looks in which nobody looked though it was time to, the oldest first:
    all that there were since `known`. `stuck` are the VMs, by name, that run from copies on the
    host and do not get on.
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
    breaks: tuple[tuple[float, float], ...] = ()
    known: float = math.inf
    stuck: Mapping[str, Stuck] = field(default_factory=dict)

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
    def tells(self) -> bool:
        """Whether a teller of this host ended lately, well or not; by the host's own clock alone.

        A host without targets has none, and one that lost them has none any more.
        """
        try:
            ended = parse_timestamp(self.workers[TELLER].when).timestamp()
        except (KeyError, ValueError):
            return False
        return abs(self.written - ended) <= SILENT_AFTER * self.interval_seconds

    @property
    def nas_is_ahead_seconds(self) -> float:
        """How far the NAS's clock is ahead of this host's, as its last look showed."""
        return self.looked - self.written


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
        look = _parsed(load(data, LIMIT_BYTES), _number(modified))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # torn while it is rewritten, or not ours
    return look if (look.node, look.machine) == (node, machine) else None


def _parsed(document: Mapping[str, Any], looked: float) -> HostLook:
    """Raises ValueError, TypeError, KeyError or AttributeError for what no host has written."""
    if document["schema"] != SCHEMA:
        raise ValueError("of another kind")
    before = tuple(_time(value, looked) for value in document["before"])[-_REMEMBERED:]
    since = _time(document["since"], looked)
    gap = looked - before[-1] if before else 0.0
    interval = max(_number(document.get("interval", UNKNOWN_INTERVAL_SECONDS)), 1.0)
    broken = bool(before) and gap > SILENT_AFTER * interval
    breaks = [(_time(begun, looked), _time(ended, looked)) for begun, ended in _breaks(document)]
    return HostLook(
        str(document["node"]),
        str(document["machine"]),
        looked,
        _number(document["written"]),
        looked if broken or not before else since,
        before,
        {
            str(name): WorkerEnd(_code(end["code"]), str(end["when"])[:40])
            for name, end in list(document["workers"].items())[:32]
        },
        _times(document["vms"], looked),
        _times(document["unchanged"], looked),
        (*breaks, (before[-1], looked)) if broken else tuple(breaks),
        _time(document.get("known", document["since"]), looked),
        {
            str(name): Stuck(
                str(each["why"])[:LONGEST_WHY],
                str(each["said"])[:LONGEST_WHY],
                _pid(each.get("pid", 0)),
            )
            for name, each in list(document.get("stuck", {}).items())[:MOST_STUCK]
        },
    )


def _breaks(document: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Those that are noted; a program that knows nothing of breaks notes none."""
    return [(begun, ended) for begun, ended in list(document.get("breaks", []))[-BREAKS:]]


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
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("no number")
    if not 0 <= value <= _LATEST:
        raise ValueError("no time")
    return float(value)


def _pid(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in _PIDS:
        raise TypeError("no process")
    return value


def _code(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in _CODES:
        raise TypeError("no exit code")
    return value


def read_looks(directory: Path, nodes: Mapping[str, NodeRecord]) -> dict[str, HostLook | None]:
    """The files of all hosts of the database, by node. Raises OSError."""
    return {name: read_look(directory, name, record.machine) for name, record in nodes.items()}
