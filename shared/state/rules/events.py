"""Events that people are told of: when they begin and end, and who tells them. Pure.

An event belongs to the record of what it is about, a VM or a host, and is known by its kind there.
Telling one is a claim: a session commits that it tells some events to one target, sends, and
commits what became of that. The claim stands as long as the session lives. So each event is told at
least once by whoever is alive, and twice only after a crash between sending and the second commit.

Times are texts of the clock of the NAS, as far as a host knows it. Two of them are compared by how
far they are apart, whichever is later: a clock that is an hour off makes a repetition an hour early
or late, and nothing else.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from shared.host.clock import parse_timestamp
from shared.state.contents import Contents
from shared.state.records import EventRecord, Told
from shared.state.states import State

Section = Literal["vms", "nodes"]

#: How grave an event is, from the least to the worst. What no program knows counts as "unknown".
LEVELS: Final = ("warning", "unknown", "critical")
#: A target that took nothing is tried again by the same host after so long, then after twice that.
FIRST_WAIT_SECONDS: Final = 300.0
LONGEST_WAIT_SECONDS: Final = 3600.0
#: What is over and could not be told for so long is told no more: no host has its target.
FORGOTTEN_SECONDS: Final = 7 * 86400.0


@dataclass(frozen=True, slots=True, order=True)
class EventKey:
    """Which event: of what it is about, the section of the database and the name there."""

    section: Section
    subject: str
    kind: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What one host sees now.

    `stands` has the events that stand, with their levels. Of those in `unsure` it cannot tell.
    `absent` are the hosts that do not look, `node` is the one that sees this, `when` the moment.
    """

    node: str
    when: str
    stands: Mapping[EventKey, str]
    unsure: Callable[[EventKey], bool] = lambda _key: False
    absent: Collection[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Terms:
    """What one target is to be told: events of these levels, again after so many seconds."""

    target: str
    levels: Collection[str] = frozenset(LEVELS)
    repeat_seconds: float = 86400.0


def all_events(contents: Contents) -> Iterator[tuple[EventKey, EventRecord]]:
    """All that is told of, of VMs and hosts."""
    for key, record in contents.vms.items():
        for kind, event in record.events.items():
            yield EventKey("vms", key, kind), event
    for name, node in contents.nodes.items():
        for kind, event in node.events.items():
            yield EventKey("nodes", name, kind), event


def observe(contents: Contents, seen: Seen) -> Contents:
    """Notes what has begun and what is over. Unchanged if that is known.

    Whether an event is over says the host that found it out, or any other when that does not look
    any more or the VM's record tells: by its own settings another one would only contradict it.
    """
    for key, event in list(all_events(contents)):
        if key not in seen.stands and not seen.unsure(key):
            gone = event.node in seen.absent or event.node not in contents.nodes
            may_end = gone or event.node == seen.node or _is_over_by_record(contents, key)
            contents = _with(contents, key, _over(event, seen, may_end=may_end))
    for key, level in seen.stands.items():
        event = _event(contents, key) or EventRecord(level, seen.when, seen.node)
        contents = _with(contents, key, replace(event, level=level, ended=""))
    return contents


def _is_over_by_record(contents: Contents, key: EventKey) -> bool:
    """Whether the record of a VM says so, whatever the settings of a host are."""
    record = contents.vms.get(key.subject)
    if key.section != "vms" or record is None:
        return False
    stands: Mapping[str, object] = {
        "overdue": record.status not in (State.CLEAN, State.ARCHIVED),
        "uncopied": record.last_copy is None,
        "failing": record.failures,
        "damaged": record.damaged,
        "disputed": record.order_unknown,
        "gone": record.missing_since,
    }
    return not stands.get(key.kind, True)


def _over(event: EventRecord, seen: Seen, *, may_end: bool) -> EventRecord | None:
    """An event that one host does not see; None if nobody has to be told of it any more.

    `may_end`: this host may say that it is over.
    """
    if not event.ended:
        if not may_end:
            return event
        event = replace(event, ended=seen.when)
    forgotten = _apart(seen.when, event.ended) > FORGOTTEN_SECONDS
    return event if event.targets and not forgotten else None


def due(contents: Contents, terms: Terms, seen: Seen) -> tuple[EventKey, ...]:
    """The events that this host may tell the target now, in a fixed order."""
    return tuple(
        sorted(
            key for key, event in all_events(contents) if _is_due(contents, key, event, terms, seen)
        )
    )


def _is_due(
    contents: Contents, key: EventKey, event: EventRecord, terms: Terms, seen: Seen
) -> bool:
    told = event.targets.get(terms.target)
    if told is None:
        return not event.ended and _level(event.level) in terms.levels
    if is_live(contents, told.session):
        return False
    if told.failures and _apart(seen.when, told.failed.get(seen.node, "")) < wait_seconds(told):
        return False
    return bool(event.ended) or (
        _level(event.level) in terms.levels
        and (
            not told.told
            or _rank(event.level) > _rank(told.level)
            or (key in seen.stands and _apart(seen.when, told.told) >= terms.repeat_seconds)
        )
    )


def wait_seconds(told: Told) -> float:
    """How long a host waits before it tries a target again that took nothing."""
    doubled = FIRST_WAIT_SECONDS * 2.0 ** min(told.failures - 1, 10)
    return min(doubled, LONGEST_WAIT_SECONDS)


def is_live(contents: Contents, session: str) -> bool:
    """Whether the session that claimed a telling is not over."""
    row = contents.sessions.get(session)
    return row is not None and row.state == "live"


def claim(contents: Contents, terms: Terms, seen: Seen, session: str) -> Contents:
    """Gives `session` the telling of all that is due. Unchanged if nothing is, any more."""
    for key in due(contents, terms, seen):
        contents = _with_told(contents, key, terms.target, _claimed_by(session))
    return contents


def _claimed_by(session: str) -> Callable[[Told], Told]:
    return lambda told: replace(told, session=session)


def claimed(contents: Contents, target: str, session: str) -> Mapping[EventKey, EventRecord]:
    """What a session tells a target now."""
    return {
        key: event
        for key, event in all_events(contents)
        if (told := event.targets.get(target)) is not None and told.session == session
    }


def told(
    contents: Contents, target: str, session: str, said: Mapping[EventKey, EventRecord], when: str
) -> Contents:
    """Notes that the target was told of `said`, the events as they were when they were claimed.

    Who was told that an event is over is owed nothing any more.
    """
    for key in claimed(contents, target, session):
        before = said.get(key)
        if before is None:
            continue
        if before.ended:
            contents = _without_told(contents, key, target)
        else:
            fresh = Told(told=when, level=before.level)
            contents = _with_told(contents, key, target, _kept(fresh))
    return contents


def _kept(fresh: Told) -> Callable[[Told], Told]:
    return lambda told: replace(fresh, extra=told.extra)


def not_told(contents: Contents, target: str, session: str, node: str, when: str) -> Contents:
    """Notes that the target took nothing: another host may try at once, this one later."""

    def failed(told: Told) -> Told:
        return replace(
            told, session="", failures=told.failures + 1, failed={**told.failed, node: when}
        )

    for key in claimed(contents, target, session):
        contents = _with_told(contents, key, target, failed)
    return contents


def _event(contents: Contents, key: EventKey) -> EventRecord | None:
    record = getattr(contents, key.section).get(key.subject)
    return None if record is None else record.events.get(key.kind)


def _with(contents: Contents, key: EventKey, event: EventRecord | None) -> Contents:
    """With the event, or without it. Unchanged if what it is about is gone, or it is there."""
    if _event(contents, key) == event:
        return contents
    added = {} if event is None else {key.kind: event}
    if (vm := contents.vms.get(key.subject)) is not None and key.section == "vms":
        return contents.with_vm(replace(vm, events={**_others(vm.events, key.kind), **added}))
    if (node := contents.nodes.get(key.subject)) is not None and key.section == "nodes":
        return contents.with_node(replace(node, events={**_others(node.events, key.kind), **added}))
    return contents


def _others(events: Mapping[str, EventRecord], kind: str) -> dict[str, EventRecord]:
    return {name: event for name, event in events.items() if name != kind}


def _with_told(
    contents: Contents, key: EventKey, target: str, change: Callable[[Told], Told]
) -> Contents:
    event = _event(contents, key)
    if event is None:
        return contents
    entry = change(event.targets.get(target, Told()))
    return _with(contents, key, replace(event, targets={**event.targets, target: entry}))


def _without_told(contents: Contents, key: EventKey, target: str) -> Contents:
    """Without what is known of the target; without the event, if it is over and that was all."""
    event = _event(contents, key)
    if event is None:
        return contents
    left = {name: entry for name, entry in event.targets.items() if name != target}
    owed = bool(left) or not event.ended
    return _with(contents, key, replace(event, targets=left) if owed else None)


def _level(level: str) -> str:
    return level if level in LEVELS else "unknown"


def _rank(level: str) -> int:
    return LEVELS.index(_level(level))


def _apart(one: str, other: str) -> float:
    """How many seconds lie between two times, whichever is later; for ever, if one says nothing."""
    try:
        return abs((parse_timestamp(one) - parse_timestamp(other)).total_seconds())
    except ValueError:
        return float("inf")
