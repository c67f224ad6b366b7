"""What one host sees that people are to be told: the one judgement, as events."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shared.host.clock import timestamp
from shared.host.errors import ExitCode
from shared.site import Site
from shared.state.contents import Contents
from shared.state.rules.events import EventKey, Seen
from shared.state.sessions.host_look import SILENT_AFTER, TELLER
from shared.tasks.judgement import Level, Moment, Verdict
from shared.tasks.verdicts import Verdicts, judge

#: What is unfinished, or was not looked at or copied yet, is no event before: the next tick may see
#: to it.
GRACE_SECONDS: Final = 3600.0
#: Kinds of verdicts that say that the reader cannot tell.
_UNSURE: Final = frozenset({"away", "clock"})
#: Kinds that follow from how old something is: a host that was away itself has to look first.
_AGES: Final = frozenset({"overdue", "unlooked", "unverified", "unrehearsed", "silent", "unknown"})


@dataclass(frozen=True, slots=True)
class View:
    """What one host sees: for the rules, and the verdicts behind it, for the message.

    `room` is the verdict on the NAS, of which each host tells by itself.
    """

    seen: Seen
    verdicts: Mapping[EventKey, Verdict]
    room: Verdict | None = None


def view(site: Site, contents: Contents) -> View:
    """What this host sees now. Writes nothing. Raises `NasError` if it cannot look."""
    found = judge(site, contents)
    verdicts = {**dict(_of_hosts(site.node, found, contents)), **dict(_of_vms(found, contents))}
    return View(_seen(site.node, found, contents, verdicts), verdicts, found.nas)


def _of_hosts(node: str, found: Verdicts, contents: Contents) -> Iterator[tuple[EventKey, Verdict]]:
    for verdict in found.hosts:
        if verdict.level == Level.OK:
            continue
        if verdict.kind == "away" or (
            verdict.kind == "unknown" and _is_new(verdict, found, contents)
        ):
            continue
        key = EventKey("nodes", verdict.subject, verdict.kind)
        if verdict.subject == node or not _tells_of_itself(key, found):
            yield key, verdict


def _tells_of_itself(key: EventKey, found: Verdicts) -> bool:
    """Whether a host says by itself that its workers fail.

    It knows first when they have recovered; its look may be of before that.
    """
    look = found.looks.get(key.subject)
    if key.kind != "failing" or look is None or not look.tells:
        return False
    return look.workers[TELLER].code == ExitCode.DONE


def _is_new(verdict: Verdict, found: Verdicts, contents: Contents) -> bool:
    """Whether all VMs of a host were found just now: it has not come to looking at them yet."""
    return all(
        _is_recent(record.found, found.now)
        for record in contents.vms.values()
        if record.node == verdict.subject
    )


def _of_vms(found: Verdicts, contents: Contents) -> Iterator[tuple[EventKey, Verdict]]:
    absent = absent_hosts(found)
    for key, said in found.about.items():
        record = contents.vms[key]
        for verdict in said:
            if verdict.level == Level.OK or verdict.kind in _UNSURE:
                continue
            if verdict.kind == "unlooked" and (
                record.node in absent or _is_recent(record.found, found.now)
            ):
                continue  # the host is told of, once for all its VMs
            if verdict.kind == "uncopied" and _is_recent(record.found, found.now):
                continue
            if verdict.kind == "unfinished" and (
                verdict.seconds is not None and verdict.seconds < GRACE_SECONDS
            ):
                continue
            yield EventKey("vms", key, verdict.kind), verdict


def absent_hosts(found: Verdicts) -> frozenset[str]:
    """The hosts of which nobody can say that they look."""
    looking = {verdict.subject for verdict in found.hosts if verdict.kind in ("looks", "failing")}
    return frozenset(found.looks) - looking


def _seen(
    node: str, found: Verdicts, contents: Contents, verdicts: dict[EventKey, Verdict]
) -> Seen:
    kinds = {verdict.subject: verdict.kind for verdict in found.hosts}
    absent = absent_hosts(found)
    own = found.looks.get(node)
    back = own is None or found.now.nas - own.looked > SILENT_AFTER * own.interval_seconds

    def unsure(key: EventKey) -> bool:
        if key.section == "nodes":
            # a host that does not look has not recovered from anything
            cannot_tell = kinds.get(key.subject) in {*_UNSURE, "silent", "unknown"}
            return cannot_tell or (key.subject != node and (back or _tells_of_itself(key, found)))
        record = contents.vms.get(key.subject)
        if record is None:
            return True
        if key.kind in _AGES and (back or (key.kind == "unlooked" and record.node in absent)):
            return True
        return key.kind == "failing" and EventKey("vms", key.subject, "overdue") in verdicts

    stands = {
        key: verdict.level.name.lower()
        for key, verdict in verdicts.items()
        if not _not_yet(key, node, back=back)
    }
    when = timestamp(datetime.fromtimestamp(found.now.nas, UTC))
    mute = {name for name, look in found.looks.items() if look is not None and not look.tells}
    return Seen(node, when, stands, unsure, absent | mute)


def _not_yet(key: EventKey, node: str, *, back: bool) -> bool:
    """Whether this host says nothing of that, because it has just come back itself."""
    return back and key.kind in _AGES and (key.section == "vms" or key.subject != node)


def _is_recent(stamp: str, now: Moment) -> bool:
    try:
        found = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return abs(now.host - found.timestamp()) < GRACE_SECONDS


def new_unknowns(view: View, contents: Contents) -> Collection[EventKey]:
    """Hosts that are unknown and were not: their file may have been read while it was written."""
    return [
        key
        for key in view.seen.stands
        if key.kind == "unknown" and key.kind not in contents.nodes[key.subject].events
    ]
