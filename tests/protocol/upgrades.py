"""An upgrade beside an older program: what each does, and what must hold."""

from collections.abc import Hashable
from dataclasses import replace
from functools import cache

from shared.state import formats
from shared.state.contents import Contents
from shared.state.store import protocol, upgrade
from shared.state.store.protocol import Author, Change
from shared.state.store.state_files import StateFiles
from tests.protocol import nas
from tests.protocol.nas import World
from tests.protocol.process import Program
from tests.protocol.programs import WHEN, append, chain_grows, row, start, told, transact_as


def first_format() -> World:
    """A database of the first format."""
    return start(format=formats.FIRST)


def older(session: str, transactions: int = 1) -> Program:
    """A session of program 0.1.

    Refuses what it does not know when it reads it, and commits in the first format.
    """

    def program(files: StateFiles) -> Hashable:
        answers = []
        for sequence in range(1, transactions + 1):
            change = _refusing(append(f"<{session}{sequence}>"))
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


def _refusing(change: Change) -> Change:
    def checked(contents: Contents) -> Contents:
        if contents.format != formats.FIRST:
            raise formats.too_new(contents.format)
        return change(contents)

    return checked


def upgrader(session: str, *, asks_first: bool = False) -> Program:
    """An upgrade that is tried once.

    One that `asks_first` asks for older programs before its transaction, and not in it: a fault.
    """

    def commit(files: StateFiles) -> None:
        if asks_first:
            upgrade.require_no_older_program(files.run(protocol.read_head()).contents)
        change = _unasked if asks_first else upgrade.upgraded
        files.run(
            protocol.transact(
                Author(replace(row(session), program="0.2"), 1, WHEN, "upgrade"), change
            )
        )

    def program(files: StateFiles) -> Hashable:
        return (((session, 1), told(lambda: commit(files))),)

    return program


def _unasked(contents: Contents) -> Contents:
    return replace(contents, format=formats.NEWEST)


def formats_grow(before: World, after: World) -> str | None:
    """The format never goes back, and no older program lives in the newest one."""
    return chain_grows(before, after) or _grows(after.chain[-2], after.chain[-1], len(after.chain))


@cache
def _grows(older_data: bytes, newer_data: bytes, number: int) -> str | None:
    was, now = nas.read(older_data, number - 1).contents, nas.read(newer_data, number).contents
    if formats.major(now.format) < formats.major(was.format):
        return f"generation {number} is of version {now.format} after {was.format}"
    living = [
        known.id for known in now.sessions.values() if known.state == "live" and not known.program
    ]
    if now.format == formats.NEWEST and living:
        return f"generation {number} is of version {now.format}, and the older {living} live"
    return None
