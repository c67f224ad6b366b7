"""What the searched processes do, and what must hold of what they leave behind."""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from shared.host.errors import VmBackupError
from shared.state.contents import Contents
from shared.state.formats import NEWEST
from shared.state.host_records import SessionRecord
from shared.state.records import VmRecord
from shared.state.rules import expiry
from shared.state.states import INITIAL, MOVES, State
from shared.state.store import protocol
from shared.state.store import readable_view as views
from shared.state.store.header import NO_PREVIOUS, Header
from shared.state.store.protocol import Author, Change
from shared.state.store.readable_view import render
from shared.state.store.snapshot import Snapshot, encode
from shared.state.store.state_files import StateFiles
from tests.protocol import nas
from tests.protocol.nas import World
from tests.protocol.process import Program

REPOSITORY: Final = "00000000-0000-4000-8000-000000000000"
WHEN: Final = "2026-11-22T20:38:00Z"
LOG: Final = "log"


def start(
    *records: VmRecord,
    sessions: Sequence[SessionRecord] = (),
    format: str = NEWEST,  # noqa: A002
) -> World:
    """A database with these records; the record `log` collects what transactions append."""
    records = records or (vm(LOG),)
    contents = Contents(
        vms={record.key: record for record in records},
        sessions={row.id: row for row in sessions},
        format=format,
    )
    return nas.initial(
        encode(Header(REPOSITORY, 1, NO_PREVIOUS, "init", 1, "n", WHEN, "init"), contents)
    )


def vm(key: str, status: State = State.CLEAN, **values: Any) -> VmRecord:
    """A record with little in it."""
    return VmRecord(key, key, f"uuid-{key}", "n", key, status, WHEN, **values)


def row(identifier: str) -> SessionRecord:
    """The row of a live session."""
    return SessionRecord(identifier, 0, 0, "live", "n")


def append(tag: str) -> Change:
    """A change that shows whether it was lost, applied twice, and in which order.

    It appends `tag` to the record `log`.

    It makes a record of that name, too, so that every generation has a view of its own.
    """

    def change(contents: Contents) -> Contents:
        record = contents.vms[LOG]
        return contents.with_vm(replace(record, last_error=record.last_error + tag)).with_vm(
            vm(tag, INITIAL)
        )

    return change


def author(session: str, sequence: int) -> Author:
    """Session `session` commits its transaction number `sequence`."""
    return Author(row(session), sequence, WHEN, "test")


def told(steps: Callable[[], Any]) -> str:
    """What a process is told of a transaction: `done`, or the name of the error."""
    try:
        steps()
    except VmBackupError as error:
        return type(error).__name__
    return "done"


def appender(session: str, transactions: int = 1, *, view: bool = False) -> Program:
    """A session that commits so many transactions in a row, and goes on after an error."""

    def program(files: StateFiles) -> Hashable:
        answers: list[tuple[Any, str]] = []
        known = False
        for sequence in range(1, transactions + 1):
            change = append(f"<{session}{sequence}>")
            answer = told(
                lambda number=sequence, change=change, known=known: transact_as(
                    files, session, number, change, known=known
                )
            )
            answers.append(((session, sequence), answer))
            known = known or answer == "done"
            if view:
                answers.append(
                    (
                        "view",
                        told(
                            lambda number=sequence: files.run(
                                views.publish_view(f"{session}.{number}")
                            )
                        ),
                    )
                )
        return tuple(answers)

    return program


def pruner(keep: int = 1, rounds: int = 1) -> Program:
    """Moves all but the newest generations away, whenever it is its turn."""

    def program(files: StateFiles) -> Hashable:
        return tuple(
            ("prune", told(lambda: files.run(protocol.prune(keep)))) for _ in range(rounds)
        )

    return program


def expirer(session: str, victim: str, transactions: int) -> Program:
    """A session that declares another one dead as soon as it sees it, and goes on committing."""

    def program(files: StateFiles) -> Hashable:
        answers = []
        for sequence in range(1, transactions + 1):
            tag = f"<{session}{sequence}>"

            def change(contents: Contents, tag: str = tag) -> Contents:
                return append(tag)(expiry.expire(contents, [victim], "silent", WHEN))

            answers.append(
                (
                    (session, sequence),
                    told(
                        lambda number=sequence, change=change: transact_as(
                            files, session, number, change
                        )
                    ),
                )
            )
        return tuple(answers)

    return program


def publisher(session: str) -> Program:
    """A session that commits once and publishes the view after that."""
    return appender(session, view=True)


EDIT: Final = b"log:RUNNING\n"


def editor() -> Program:
    """Somebody who edits `vmtool-statedb`."""

    def program(files: StateFiles) -> Hashable:
        files.perform(nas.EditView(EDIT))
        return (("edit", "done"),)

    return program


def transact_as(
    files: StateFiles, session: str, sequence: int, change: Change, *, known: bool = False
) -> Snapshot:
    """Commits as that session, under that number."""
    return files.run(protocol.transact(replace(author(session, sequence), known=known), change))


# What must hold


def each_once(world: World, results: Sequence[Any]) -> str | None:
    """No update is lost or applied twice, whatever was told."""
    if not world.generations:
        return "the database is empty"
    log = nas.head(world).contents.vms[LOG].last_error
    for transaction, answer in (
        told for result in results for told in result or () if isinstance(told[0], tuple)
    ):
        tag = "<{}{}>".format(*transaction)
        if log.count(tag) > 1 or (answer == "done" and tag not in log):
            return (
                f"{transaction} was told {answer}, and is {log.count(tag)} times in the head "
                f"({log})"
            )
    return None


def head_is_whole(world: World, _: Sequence[Any]) -> str | None:
    """The newest generation can be read."""
    try:
        nas.head(world)
    except VmBackupError as error:
        return str(error)
    return None


def nobody_is_alarmed(world: World, results: Sequence[Any]) -> str | None:
    """No process takes what is normal for damage."""
    answers = ((what, answer) for result in results for what, answer in result or ())
    return next(
        (
            f"{what} was told {answer}"
            for what, answer in answers
            if answer == "DatabaseDamagedError"
        ),
        None,
    )


def never_twice(world: World, results: Sequence[Any]) -> str | None:
    """No update is applied twice."""
    log = nas.head(world).contents.vms[LOG].last_error
    return next(
        (
            f"{tag} was applied {log.count(tag)} times"
            for tag in re.findall("<[^>]*>", log)
            if log.count(tag) > 1
        ),
        None,
    )


def view_is_current(world: World, results: Sequence[Any]) -> str | None:
    """`vmtool-statedb` shows the head.

    At once if nobody failed, after the next tick of any worker otherwise; and no edit was imagined.
    """
    if world.kept:
        return f"an edit was reported that nobody had made: {sorted(world.kept)}"
    wanted = render(nas.head(world).contents)
    undisturbed = not world.pending and all(
        result is not None and all(answer == "done" for _, answer in result) for result in results
    )
    if undisturbed and world.view != wanted:
        return f"vmtool-statedb is {world.view!r} at the end, the head is {wanted!r}"
    repaired, edited = _tick(world)
    if edited:
        return f"the next tick took an old view for an edit: {world.view!r}"
    return (
        None
        if repaired.view == wanted
        else f"the next tick did not repair vmtool-statedb: {repaired.view!r}"
    )


def edited_views_are_kept(world: World, results: Sequence[Any]) -> str | None:
    """An edit is still there, kept beside, or (written between the look and the replacement of a
    publisher) overwritten by the head.
    """
    if not world.kept <= {EDIT}:
        return f"an edit was reported that nobody had made: {sorted(world.kept)}"
    repaired, edited = _tick(world)
    if repaired.view != render(nas.head(world).contents):
        return "the next tick did not repair vmtool-statedb"
    return (
        None if edited == (world.view == EDIT) else f"the next tick took {world.view!r} for an edit"
    )


def _tick(world: World) -> tuple[World, bool]:
    """What a worker that finds the database so does to the view, with nobody else about."""
    current = world
    rules = nas.Rules()

    class Files(StateFiles):
        def __init__(self) -> None:
            self.root = Path("vmstate")

        def perform(self, operation: Any) -> Any:
            nonlocal current
            outcome = next(nas.outcomes(current, 99, operation, None, rules))
            current = outcome.world
            return outcome.answer

    edited = Files().run(views.publish_view("tick"))
    return current, edited


def all_of(
    *checks: Callable[[World, Sequence[Any]], str | None],
) -> Callable[[World, Sequence[Any]], str | None]:
    """The first thing that is wrong."""

    def check(world: World, results: Sequence[Any]) -> str | None:
        return next((found for one in checks if (found := one(world, results)) is not None), None)

    return check


def chain_grows(before: World, after: World) -> str | None:
    """Each generation follows from the one before it, is never replaced, and makes only moves that
    the table of states allows.
    """
    if after.power_cuts < before.power_cuts:
        return None
    if after.chain[: len(before.chain)] != before.chain:
        return "a generation was replaced"
    return _follows(after.chain[-2], after.chain[-1], len(after.chain))


@cache
def _follows(older: bytes, newer: bytes, number: int) -> str | None:
    before, after = nas.read(older, number - 1), nas.read(newer, number)
    if after.header.previous != before.checksum:
        return f"generation {number} does not follow from the one before it"
    old, new = before.contents, after.contents
    if new.claims_granted < old.claims_granted:
        return "the claim number went back"
    known = old.sessions.get(after.header.session)
    if known is not None and (known.state != "live" or known.sequence >= after.header.sequence):
        return f"generation {number} was committed by {known}"
    return next(
        (found for key in new.vms if (found := _moved(before, after, key)) is not None), None
    ) or consistent(new)


def _moved(before: Snapshot, after: Snapshot, key: str) -> str | None:
    old, new = before.contents.vms.get(key), after.contents.vms[key]
    if old is None:
        return None if new.status == INITIAL else f"{key} begins as {new.status}"
    if old.status != new.status and not any(
        source == old.status and target == new.status for (source, _), target in MOVES.items()
    ):
        return f"{key} went from {old.status} to {new.status}"
    if new.last_copy not in (old.last_copy, old.publishing):
        return f"{key} has a copy that nobody had announced: {new.last_copy}"
    if old.publishing is not None and new.publishing is None and new.last_copy != old.publishing:
        return f"{key}: the copy that was being put in place was forgotten"
    if old.claim is not None and new.claim is not None and old.claim != new.claim:
        return f"{key} was taken from {old.claim} and given to {new.claim} in one commit"
    return None


def consistent(contents: Contents) -> str | None:
    """What holds in every generation: nothing is in flight that nobody would ever finish."""
    for record in contents.vms.values():
        in_flight = record.publishing is not None or (
            record.claim is not None and record.claim.purpose == "backup"
        )
        if (record.status == State.BACKUP_IN_PROGRESS) != in_flight:
            return (
                f"{record.key} is {record.status} with claim {record.claim} and publishing "
                f"{record.publishing}: nobody would finish that"
            )
        if record.claim is not None:
            holder = contents.sessions.get(record.claim.session)
            if holder is None or holder.state != "live":
                return (
                    f"{record.key} is claimed by {record.claim.session}, which is "
                    f"{holder and holder.state}"
                )
            if record.claim.number > contents.claims_granted:
                return f"{record.key} has claim {record.claim.number} of {contents.claims_granted}"
    return None


def answers_are_true(world: World, results: Sequence[Any]) -> str | None:
    """What was told of each transaction, `((session, number), answer)`, is what is in the chain."""
    authors = [nas.read(data, number).header for number, data in enumerate(world.chain, start=1)]
    committed = [(header.session, header.sequence) for header in authors]
    for transaction, answer in (
        told for result in results for told in result or () if isinstance(told[0], tuple)
    ):
        times = committed.count(transaction)
        if (
            times > 1
            or (answer == "done" and times != 1)
            or (answer not in UNKNOWN and answer != "done" and times)
        ):
            return f"{transaction} was told {answer}, and is {times} times in the chain"
        if answer == "LockLostError" and not _was_displaced(world, transaction[0]):
            return f"{transaction} was told {answer}, but nobody had displaced that session"
    return None


#: Answers that leave open whether the transaction was committed.
UNKNOWN: Final = frozenset({"NasError", "InDoubtError"})


def _was_displaced(world: World, session: str) -> bool:
    """Whether another session expired this one, or took a claim from it."""
    generations = [nas.read(data, number) for number, data in enumerate(world.chain, start=1)]
    for before, after in pairwise(generations):
        if after.header.session == session:
            continue
        row = before.contents.sessions.get(session)
        now = after.contents.sessions.get(session)
        if row is not None and row.state == "live" and (now is None or now.state != "live"):
            return True
        if _claims_of(before, session) - _claims_of(after, session):
            return True
    return False


def _claims_of(snapshot: Snapshot, session: str) -> set[int]:
    claims = (record.claim for record in snapshot.contents.vms.values())
    return {claim.number for claim in claims if claim is not None and claim.session == session}
