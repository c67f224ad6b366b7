"""Events that people are told of: when they begin and end. Pure.

An event belongs to the record of what it is about, a VM or a host, and is known by its kind there.
Who tells people of it is in `event_telling`.

Times are texts of the clock of the NAS, as far as a host knows it. Two of them are compared by how
far they are apart, whichever is later: a clock that is an hour off makes a repetition an hour early
or late, and nothing else.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from shared.host.clock import parse_timestamp
from shared.state.contents import Contents
from shared.state.records import EventRecord
from shared.state.rules import unfinished
from shared.state.states import State

Section = Literal["vms", "nodes"]

#: How grave an event is, from the least to the worst. What no program knows counts as "unknown".
LEVELS: Final = ("warning", "unknown", "critical")
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
    `absent` are the hosts that do not look, or tell nobody any more; `node` is the one that sees
    this, `when` the moment.
    """

    node: str
    when: str
    stands: Mapping[EventKey, str]
    unsure: Callable[[EventKey], bool] = lambda _key: False
    absent: Collection[str] = frozenset()


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

    Whether an event is over says the host that found it out or that it is about, or any other when
    the first does not look any more or the VM's record tells: by its own settings another one would
    only contradict it.
    """
    for key, event in list(all_events(contents)):
        if key not in seen.stands and not seen.unsure(key):
            gone = event.node in seen.absent or event.node not in contents.nodes
            itself = key.section == "nodes" and key.subject == seen.node
            found_out = event.node == seen.node or itself
            may_end = gone or found_out or _is_over_by_record(contents, key)
            contents = with_event(contents, key, _over(event, seen, may_end=may_end))
    for key, level in seen.stands.items():
        event = find_event(contents, key) or EventRecord(level, seen.when, seen.node)
        contents = with_event(contents, key, replace(event, level=level, ended=""))
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
        "twice": record.also_on,
        "gone": record.missing_since,
        "unfinished": record.claim or unfinished.of(record),  # or somebody is at it
        "left": record.power_left,
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
    forgotten = seconds_apart(seen.when, event.ended) > FORGOTTEN_SECONDS
    return event if event.targets and not forgotten else None


def find_event(contents: Contents, key: EventKey) -> EventRecord | None:
    """What is noted of an event; None if nothing is."""
    record = getattr(contents, key.section).get(key.subject)
    return None if record is None else record.events.get(key.kind)


def with_event(contents: Contents, key: EventKey, event: EventRecord | None) -> Contents:
    """With the event, or without it. Unchanged if what it is about is gone, or it is there."""
    if find_event(contents, key) == event:
        return contents
    added = {} if event is None else {key.kind: event}
    if (vm := contents.vms.get(key.subject)) is not None and key.section == "vms":
        return contents.with_vm(replace(vm, events={**_others(vm.events, key.kind), **added}))
    if (node := contents.nodes.get(key.subject)) is not None and key.section == "nodes":
        return contents.with_node(replace(node, events={**_others(node.events, key.kind), **added}))
    return contents


def _others(events: Mapping[str, EventRecord], kind: str) -> dict[str, EventRecord]:
    return {name: event for name, event in events.items() if name != kind}


def seconds_apart(one: str, other: str) -> float:
    """How many seconds lie between two times, whichever is later; for ever, if one says nothing."""
    try:
        return abs((parse_timestamp(one) - parse_timestamp(other)).total_seconds())
    except ValueError:
        return float("inf")
