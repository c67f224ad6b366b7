"""Whether a backup is all right: one judgement of each VM, each host and the NAS.

Pure: what is known is an argument. Whatever tells people how things stand asks here, so that no two
answers differ.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

from shared.copies.space_needed import human
from shared.host.clock import is_ahead, parse_timestamp
from shared.host.printable import printable, quoted
from shared.state.sessions.host_look import SILENT_AFTER, TOLERANCE_SECONDS, HostLook


class Level(IntEnum):
    """How bad it is: the exit codes of a Nagios plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


#: From the least to the worst. What is not known is worse than a warning, and than nothing else.
GRAVITY: Final = (Level.OK, Level.WARNING, Level.UNKNOWN, Level.CRITICAL)
#: Exit codes of a worker that are no fault of the host: done, some VMs failed (which is said of
#: them), some run and were left for later.
_FINE: Final = frozenset({0, 3, 4})
AWAY: Final = "this host was away itself, and cannot tell before its next look"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a VM, a host or the NAS.

    `kind` is one word for programs, `reason` a sentence for people, `seconds` since when, where
    that is known. `remedy` is the command that helps, if one does. `also` has what else is not all
    right with the same VM, the worst first.
    """

    subject: str
    level: Level
    kind: str
    reason: str
    seconds: float | None = None
    remedy: str = ""
    also: tuple["Verdict", ...] = ()

    def document(self, command: Callable[[str], str] = str) -> dict[str, object]:
        """As JSON shows it. `command` makes of a remedy what can be pasted here."""
        return {
            "name": self.subject,
            "level": self.level.name,
            "kind": self.kind,
            "reason": self.reason,
            "seconds": None if self.seconds is None else round(self.seconds),
            "remedy": command(self.remedy) or None,
            "also": [other.document(command) for other in self.also],
        }


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, as one reader knows it.

    `host` by the reader's own clock, `nas` by that of the NAS (seconds since the epoch). `node`:
    the reader's host, empty if it is none of the database. `back_since`: since when, by the NAS's
    clock, that host looks without a break; what others did before, it does not judge. 0: it never
    looked.
    """

    host: float
    nas: float
    node: str = ""
    back_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is allowed for one VM.

    `max_age_seconds`: how long it may be without a look or, if it was used, without a copy.
    `verify_days`: how often its copies are to be read, `rehearse_days`: how often its newest copy
    is to be restored on trial (0: never). `may_be_off`: nobody looks while its host is off, and
    that is no fault.
    """

    max_age_seconds: float
    verify_days: float
    rehearse_days: float = 0
    may_be_off: bool = False


def moment(now: float, own: HostLook | None) -> Moment:
    """Now, with the NAS's clock as the reader's own last look (if it has one) has shown it."""
    if own is None:
        return Moment(now, now)
    nas = now + own.nas_is_ahead_seconds
    away = nas - own.looked > SILENT_AFTER * own.interval_seconds
    return Moment(now, nas, own.node, nas if away else own.since)


def worst(verdicts: Iterable[Verdict]) -> Level:
    """The gravest level of all; UNKNOWN if there is nothing to judge."""
    return max((verdict.level for verdict in verdicts), key=GRAVITY.index, default=Level.UNKNOWN)


def judge_nas(free: int, reserve: int, largest_copy: int = 0) -> Verdict:
    """Whether the NAS has room for backups: for one more of the largest VM, at least."""
    if free >= max(reserve, 1) + largest_copy:
        return Verdict("NAS", Level.OK, "room", f"{human(free)} free")
    if free >= max(reserve, 1):
        return Verdict(
            "NAS",
            Level.WARNING,
            "nearly_full",
            f"{human(free)} free: a copy of the largest VM ({human(largest_copy)}) may not fit",
            remedy="vmbackup-admin prune --dry-run",
        )
    return Verdict(
        "NAS",
        Level.CRITICAL,
        "full",
        f"{human(free)} free, less than nas.reserve ({human(reserve)}): no backup begins",
        remedy="vmbackup-admin prune --dry-run",
    )


def is_over(look: HostLook, last: float, limit: float, now: Moment) -> bool | None:
    """Whether a host has let more than `limit` seconds pass since `last`.

    None: it seems so, but the reader was away itself and has to look a second time.
    """
    if now.nas - last <= limit:
        return False
    if look.node != now.node and now.nas - max(last, now.back_since) <= limit:
        return None
    return True


def is_silent(look: HostLook, now: Moment) -> bool | None:
    """Whether a host has missed its last looks. None: the reader cannot tell yet."""
    return is_over(look, look.looked, SILENT_AFTER * look.interval_seconds, now)


def judge_host(
    node: str, look: HostLook | None, now: Moment, *, may_be_off: bool, namesake: str = ""
) -> Verdict:
    """Whether the workers of a host run.

    `namesake` is a host whose name differs only in case: see `namesake_of`.
    """
    if look is None:
        return _judge_unseen(node, namesake, may_be_off=may_be_off)
    since, silent = now.nas - look.looked, is_silent(look, now)
    if since < -TOLERANCE_SECONDS:
        reason = (
            "its last look lies in the future: the clock of the NAS was set, or that of this host"
        )
        return Verdict(node, Level.WARNING, "clock", reason)
    if silent is None:
        return Verdict(node, Level.UNKNOWN, "away", AWAY, since, "vmbackup-worker run")
    if silent:
        return _judge_silent(node, since, may_be_off=may_be_off)
    ended = sorted(look.workers.items())
    failing = [
        f"{name} ended with exit code {end.code}" for name, end in ended if end.code not in _FINE
    ]
    if failing:
        reason, ago = ", ".join(failing), _ended_seconds(look, now)
        return Verdict(
            node, Level.WARNING, "failing", reason, ago, on(node, "vmbackup-admin doctor")
        )
    return Verdict(node, Level.OK, "looks", "its workers run", since)


def _judge_unseen(node: str, namesake: str, *, may_be_off: bool) -> Verdict:
    if namesake:
        reason = (
            f"its name and that of {namesake} differ only in case: on a NAS to which that is one "
            f"name they overwrite each other's look"
        )
        remedy = f"give one of them another host.node; then vmbackup-lock recover {quoted(node)}"
        return Verdict(node, Level.UNKNOWN, "unknown", reason, remedy=remedy)
    level = Level.OK if may_be_off else Level.UNKNOWN
    reason = "none of its workers has noted that it looked"
    return Verdict(node, level, "unknown", reason, remedy=on(node, "vmbackup-worker run"))


def namesake_of(node: str, nodes: Iterable[str]) -> str:
    """A host whose name is another one and differs only in case; empty if there is none."""
    same = (other for other in sorted(nodes) if other.casefold() == node.casefold())
    return next((other for other in same if other != node), "")


def _judge_silent(node: str, since: float, *, may_be_off: bool) -> Verdict:
    if may_be_off:
        return Verdict(node, Level.OK, "off", "it does not look, and may be off", since)
    reason = "its workers have stopped, or it is off"
    remedy = on(node, "vmbackup-admin doctor")
    return Verdict(node, Level.CRITICAL, "silent", reason, since, remedy)


def _ended_seconds(look: HostLook, now: Moment) -> float | None:
    """How long ago the last worker that failed ended; None if its time says nothing.

    What the host's clock said then is compared with what it said when the host looked.
    """
    ages = []
    for end in look.workers.values():
        if end.code not in _FINE:
            with contextlib.suppress(ValueError):
                ages.append(look.written - parse_timestamp(end.when).timestamp())
    return max(0.0, now.nas - look.looked + min(ages)) if ages else None


def on(node: str, command: str) -> str:
    """A remedy that helps on one host only."""
    return f"on {printable(node)}: {command}" if node else command


def seconds_ago(stamp: str | None, now: Moment) -> float | None:
    """How long ago a stored time was by the reader's clock; None if it says nothing."""
    here = datetime.fromtimestamp(now.host, UTC)
    try:
        return (
            None
            if is_ahead(here, stamp)
            else max(0.0, now.host - parse_timestamp(stamp or "").timestamp())
        )
    except ValueError:
        return None
