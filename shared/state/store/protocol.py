"""The commit protocol.

How processes on several hosts change one database in plain files and lose nothing.

Each function yields the file operations of `shared.state.store.operations` and receives their
answers, so that the code which runs in production is the code which the model checker searches. The
rules, each of which a mutant in the tests breaks:

* A commit creates generation N+1 from what was read as N, under a name that the NAS refuses to
  replace. Whoever was paused in between finds the name taken.
* What the NAS answers to that creation is not believed, in either direction (a lost reply turns
  success into "exists", some clients turn "exists" into success). A transaction counts as committed
  when a head is read back that contains its session and sequence number.
* A transaction is a pure function of what it read. It is run again on the fresh head after a lost
  race.
* A session that was expired commits nothing any more.
* What is answered, and what is built upon, is on the disk of the NAS: a generation can be read
  before it would survive a power cut.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from shared.host.errors import DatabaseDamagedError, InDoubtError, LockLostError, NoGenerationError
from shared.state.contents import Contents
from shared.state.formats import require_known
from shared.state.host_records import SessionRecord
from shared.state.store.header import Header
from shared.state.store.operations import (
    ListGenerations,
    MoveToHistory,
    PublishGeneration,
    ReadGeneration,
    RemoveTemporary,
    Steps,
    SyncGeneration,
    Wait,
    WriteTemporary,
)
from shared.state.store.snapshot import Snapshot, decode, encode

#: A transaction: what the contents become. Pure; may raise to abort with nothing written.
Change = Callable[[Contents], Contents]

#: Ended and expired sessions are remembered for this many generations after their last commit. A
#: process that finds the head further ahead than this can no longer tell whether its commit took
#: place, and says so.
SESSION_MEMORY: Final = 128

#: How often a vanished head or a lost race is tried again before giving up.
ATTEMPTS: Final = 200
#: How long an empty listing is not believed. A client shows names of others up to a second late
#: (docs/nas.md), and much later on a host that has no time.
EMPTY_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Author:
    """Who commits, under which sequence number, and why.

    `record` is the session's row as it should read after the commit. `known` says that a commit of
    this session was read back before: its row must then still be there. A sequence number is used
    for one transaction only, also when that failed: what failed may still arrive. The same
    transaction may be tried again under its number.
    """

    record: SessionRecord
    sequence: int
    committed: str
    reason: str
    known: bool = False


def read_head(seen: int = 0) -> Steps[Snapshot]:
    """The newest generation. Takes no lock and never sees half a generation.

    A listing may be stale, so the name after the newest listed one is probed until there is none;
    `seen`, a generation that was read before, is asked for where the listing is empty. Raises
    `NoGenerationError` when there is none by either way for `EMPTY_SECONDS` of waiting.
    Raises `DatabaseDamagedError` when a generation does not follow from the one before it, also
    after listing again: below the window that pruning leaves, a late writer may have filled a name
    that was free.
    """
    damaged, empty_seconds = 0, 0.0
    for attempt in range(ATTEMPTS):
        numbers = yield from ListGenerations()
        newest = max(numbers, default=seen)  # an initialised database is never empty
        data = (yield from ReadGeneration(newest)) if newest else None
        if data is not None:
            try:
                return (yield from _follow(decode(data, newest)))
            except DatabaseDamagedError:
                if newest == damaged:
                    raise
                damaged = newest
        if not numbers and empty_seconds >= EMPTY_SECONDS:
            raise NoGenerationError(
                "the state database has no generation: gen/ is empty",
                hint=(
                    "if the NAS was put back, is all of it there? Else `vmbackup-admin statedb "
                    "rebuild` makes the database anew from the copies"
                ),
            )
        seconds = yield from Wait(attempt)
        if not numbers:
            empty_seconds += seconds
    raise NoGenerationError(
        "the state database has no generation that can be read",
        hint="`vmbackup-admin doctor` examines the NAS",
    )


def _follow(head: Snapshot) -> Steps[Snapshot]:
    while True:
        data = yield from ReadGeneration(head.generation + 1)
        if data is None:
            return head
        successor = decode(data, head.generation + 1)
        if (
            successor.header.previous != head.checksum
            or successor.header.repository != head.header.repository
        ):
            raise DatabaseDamagedError(
                (
                    f"generation {successor.generation} of the state database does not follow from "
                    f"generation {head.generation}"
                ),
                hint=(
                    "the history was rolled back or mixed with another database: "
                    "`vmbackup-admin statedb check` shows what is there"
                ),
            )
        head = successor


def transact(author: Author, change: Change, seen: int = 0) -> Steps[Snapshot]:
    """Applies `change` once, and returns a head that contains it.

    The head as it is, if `change` changes nothing.

    What is written has the format of what was read, unless that is what `change` changes. `seen` is
    as for `read_head`.

    Whatever `change` raises ends the transaction with nothing written. Raises
    `DatabaseVersionError` when a newer program has been there, `LockLostError` when the session was
    expired, and `InDoubtError` when it cannot be known whether the commit took place. A crash at
    any point leaves the change either fully committed or not at all.
    """
    first_attempted: int | None = None
    for attempt in range(ATTEMPTS):
        head = yield from read_head(seen)
        seen = head.generation
        require_known(head.contents.format)
        row = head.contents.sessions.get(author.record.id)
        if row is not None and row.sequence >= author.sequence:
            contents = head.contents
        elif (
            row is None
            and first_attempted is not None
            and head.generation - first_attempted > SESSION_MEMORY
        ):
            break  # its row may have been written and forgotten since
        else:
            _require_live(author, row)
            contents = change(head.contents)
        if not (yield from _is_on_disk(head)):
            yield from Wait(attempt)
            continue
        if contents == head.contents:
            return head
        if first_attempted is None:
            first_attempted = head.generation + 1
        yield from _attempt(author, head, contents, attempt)
        if attempt:
            yield from Wait(attempt)
    raise InDoubtError(
        (
            f"it is not known whether {author.reason!r} was committed: the NAS did not answer, or "
            f"others were faster {ATTEMPTS} times"
        ),
        hint="the next worker reads the database again and goes on from what it finds",
    )


def _is_on_disk(head: Snapshot) -> Steps[bool]:
    """Makes sure that the head would survive a power cut of the NAS.

    False if one came before that: another may have its name now.
    """
    data = yield from SyncGeneration(head.generation)
    return data is not None and decode(data, head.generation).checksum == head.checksum


def _require_live(author: Author, row: SessionRecord | None) -> None:
    if author.known if row is None else row.state != "live":
        over = row.over if row is not None else "its row in the state database is gone"
        raise LockLostError(
            f"session {author.record.id} was ended by others: {over or 'they took it for dead'}; "
            "what it held is no longer its own",
            hint=(
                "what it did is done again by the next worker; if nobody ended it by hand, and "
                "this host was not asleep, look at its connection to the NAS"
            ),
        )


def _attempt(author: Author, head: Snapshot, contents: Contents, attempt: int) -> Steps[None]:
    number = head.generation + 1
    row = replace(author.record, sequence=author.sequence, generation=number)
    contents = _forget_old_sessions(contents.with_session(row), number)
    header = Header(
        repository=head.header.repository,
        generation=number,
        previous=head.checksum,
        session=author.record.id,
        sequence=author.sequence,
        node=author.record.node,
        committed=author.committed,
        reason=author.reason,
    )
    name = f"{author.record.id}.{author.sequence}.{attempt}"
    yield from WriteTemporary(name, encode(header, contents))
    yield from PublishGeneration(name, number)
    yield from RemoveTemporary(name)


def _forget_old_sessions(contents: Contents, number: int) -> Contents:
    kept = {
        identifier: row
        for identifier, row in contents.sessions.items()
        if row.state == "live" or number - row.generation <= SESSION_MEMORY
    }
    return contents if len(kept) == len(contents.sessions) else replace(contents, sessions=kept)


def prune(keep: int) -> Steps[tuple[int, ...]]:
    """Moves all but the newest `keep` generations to the history; returns their numbers."""
    numbers = yield from ListGenerations()
    moved: list[int] = []
    for number in sorted(numbers or ()):
        if number <= max(numbers) - keep:
            yield from MoveToHistory(number)
            moved.append(number)
    return tuple(moved)
