"""Telling people of events: what is due, who tells it, and what became of that. Pure.

Telling one is a claim: a session commits that it tells some events to one target, sends, and
commits what became of that. The claim stands as long as the session lives. So each event is told at
least once by whoever is alive, and twice only after a crash between sending and the second commit.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from shared.state.contents import Contents
from shared.state.records import EventRecord, Told
from shared.state.rules.events import (
    LEVELS,
    EventKey,
    Seen,
    all_events,
    find_event,
    seconds_apart,
    with_event,
)

#: A target that took nothing is tried again by the same host after so long, then after twice that.
FIRST_WAIT_SECONDS: Final = 300.0
LONGEST_WAIT_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What one target is to be told: events of these levels, again after so many seconds."""

    target: str
    levels: Collection[str] = frozenset(LEVELS)
    repeat_seconds: float = 86400.0


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
    if told.failures and seconds_apart(seen.when, told.failed.get(seen.node, "")) < wait_seconds(
        told
    ):
        return False
    return bool(event.ended) or (
        _level(event.level) in terms.levels
        and (
            not told.told
            or _rank(event.level) > _rank(told.level)
            or (key in seen.stands and seconds_apart(seen.when, told.told) >= terms.repeat_seconds)
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


def _with_told(
    contents: Contents, key: EventKey, target: str, change: Callable[[Told], Told]
) -> Contents:
    event = find_event(contents, key)
    if event is None:
        return contents
    entry = change(event.targets.get(target, Told()))
    return with_event(contents, key, replace(event, targets={**event.targets, target: entry}))


def _without_told(contents: Contents, key: EventKey, target: str) -> Contents:
    """Without what is known of the target; without the event, if it is over and that was all."""
    event = find_event(contents, key)
    if event is None:
        return contents
    left = {name: entry for name, entry in event.targets.items() if name != target}
    owed = bool(left) or not event.ended
    return with_event(contents, key, replace(event, targets=left) if owed else None)


def _level(level: str) -> str:
    return level if level in LEVELS else "unknown"


def _rank(level: str) -> int:
    return LEVELS.index(_level(level))
