"""The states of a VM, and the one table of moves between them. Pure."""

from collections.abc import Mapping
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final

from shared.host.errors import IllegalMoveError


@unique
class State(StrEnum):
    """The state of a VM in the database."""

    #: Found on its host, not looked at yet.
    NEW = "NEW"
    #: Used or changed since its last good copy, and stopped: waits for a backup worker.
    BACKUP_NECESSARY = "BACKUP_NECESSARY"
    #: A backup worker has claimed it and exports it.
    BACKUP_IN_PROGRESS = "BACKUP_IN_PROGRESS"
    #: Its last good copy is that of the VM as it is.
    CLEAN = "CLEAN"
    #: Runs: its backup is deferred until it stops.
    RUNNING = "RUNNING"
    #: Set aside by an operator: never scheduled.
    ARCHIVED = "ARCHIVED"


@unique
class Event(StrEnum):
    """What can happen to a VM."""

    #: The notifier sees it running.
    SEEN_RUNNING = "seen running"
    #: The notifier sees it stopped, and it has no good copy of what it is now.
    SEEN_STOPPED = "seen stopped"
    #: It runs, and its policy has it backed up all the same.
    DUE = "due, although it runs"
    #: Its operator wants a backup of it now, whether it was used or not.
    WANTED = "wanted now"
    #: Its fingerprint differs from that of its last good copy.
    CHANGED = "changed"
    #: A verification found its newest good copy damaged, or gone.
    COPY_DAMAGED = "copy damaged"
    #: A backup worker claims it.
    CLAIMED = "claimed"
    #: A verified copy was published.
    PUBLISHED = "published"
    #: A verified copy was published; the VM, which was frozen for it, was started since.
    PUBLISHED_RUNNING = "published, runs again"
    #: A verified copy was published; the VM, which was frozen for it, was used or changed since.
    PUBLISHED_CHANGED = "published, used since"
    #: The export failed, the VM changed meanwhile, or the worker died.
    FAILED = "failed"
    #: It has to wait, which was found at the last moment: for its window, for room on the NAS.
    POSTPONED = "postponed"
    #: It was found running at the last moment.
    FOUND_RUNNING = "found running"
    #: The operator archives it.
    ARCHIVE = "archive"
    #: The operator activates it; its copy is that of the VM as it is.
    ACTIVATE_UNCHANGED = "activate, copy still that of the VM"
    #: The operator activates it; the VM has changed since its copy.
    ACTIVATE_CHANGED = "activate, VM changed since its copy"
    #: The operator activates it; there is no copy.
    ACTIVATE_EMPTY = "activate, no copy"


#: The state of a VM that vmfind has just found.
INITIAL: Final = State.NEW

#: States from which the operator may have the record deleted.
FORGETTABLE: Final = frozenset(State) - {State.BACKUP_IN_PROGRESS}

#: States that no VM may be left in by a process that died: recovery applies `Event.FAILED`.
IN_FLIGHT: Final = frozenset({State.BACKUP_IN_PROGRESS})

MOVES: Final[Mapping[tuple[State, Event], State]] = MappingProxyType(
    {
        (State.NEW, Event.SEEN_RUNNING): State.RUNNING,
        (State.CLEAN, Event.SEEN_RUNNING): State.RUNNING,
        (State.BACKUP_NECESSARY, Event.SEEN_RUNNING): State.RUNNING,
        (State.NEW, Event.SEEN_STOPPED): State.BACKUP_NECESSARY,
        (State.RUNNING, Event.SEEN_STOPPED): State.BACKUP_NECESSARY,
        (State.RUNNING, Event.DUE): State.BACKUP_NECESSARY,
        (State.NEW, Event.WANTED): State.BACKUP_NECESSARY,
        (State.CLEAN, Event.WANTED): State.BACKUP_NECESSARY,
        (State.RUNNING, Event.WANTED): State.BACKUP_NECESSARY,
        (State.CLEAN, Event.CHANGED): State.BACKUP_NECESSARY,
        (State.CLEAN, Event.COPY_DAMAGED): State.BACKUP_NECESSARY,
        (State.BACKUP_NECESSARY, Event.CLAIMED): State.BACKUP_IN_PROGRESS,
        (State.BACKUP_IN_PROGRESS, Event.PUBLISHED): State.CLEAN,
        (State.BACKUP_IN_PROGRESS, Event.PUBLISHED_RUNNING): State.RUNNING,
        (State.BACKUP_IN_PROGRESS, Event.PUBLISHED_CHANGED): State.BACKUP_NECESSARY,
        (State.BACKUP_IN_PROGRESS, Event.FAILED): State.BACKUP_NECESSARY,
        (State.BACKUP_IN_PROGRESS, Event.POSTPONED): State.BACKUP_NECESSARY,
        (State.BACKUP_IN_PROGRESS, Event.FOUND_RUNNING): State.RUNNING,
        **{
            (state, Event.ARCHIVE): State.ARCHIVED
            for state in State
            if state not in (State.BACKUP_IN_PROGRESS, State.ARCHIVED)
        },
        (State.ARCHIVED, Event.ACTIVATE_UNCHANGED): State.CLEAN,
        (State.ARCHIVED, Event.ACTIVATE_CHANGED): State.BACKUP_NECESSARY,
        (State.ARCHIVED, Event.ACTIVATE_EMPTY): State.NEW,
    }
)


def move(state: State, event: Event) -> State:
    """The state after `event`.

    Raises `IllegalMoveError` naming the state, the event, and the state it would lead to.
    """
    try:
        return MOVES[state, event]
    except KeyError:
        targets = sorted({target for (_, known), target in MOVES.items() if known is event})
        raise IllegalMoveError(
            f"a VM that is {state} cannot become {' or '.join(targets)} ({event})"
        ) from None


def allowed(state: State, event: Event) -> bool:
    """Whether `move` would succeed."""
    return (state, event) in MOVES


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {INITIAL}: found by vmfind"]
    lines += [f"    {source} --> {target}: {event}" for (source, event), target in MOVES.items()]
    lines += [f"    {state} --> [*]: forget" for state in State if state in FORGETTABLE]
    return "\n".join(lines) + "\n"
