"""Bringing a database into the newest format, when all hosts run programs that know it.

One commit does it: the generation that it writes is the first one in the new format. An older
program that is still around, also one that has opened the database and committed nothing, is
stopped when it next reads the newest generation, which it does before each commit.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version as package_version
from typing import Final

from shared.host.errors import LockedError
from shared.host.printable import quoted
from shared.state import formats
from shared.state.contents import Contents
from shared.state.host_records import SessionRecord
from shared.state.sessions import deaths, recovery
from shared.state.store.database import Database
from shared.state.store.opening import read_version
from shared.state.store.repair import replace_version

WORKER: Final = "upgrade"


@dataclass(frozen=True, slots=True)
class Format:
    """In which format the database is.

    That of its newest generation, and what `vmtool-db-version` says.
    """

    generation: str
    file: str

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return not formats.is_older(self.generation) and self.file == self.generation


def state(database: Database) -> Format:
    """In which format the database is now."""
    return Format(database.head().contents.format, read_version(database.root).database_version)


def require_no_older_program(contents: Contents) -> None:
    """Raises `LockedError` while a session lives whose program does not know the newest format."""
    older = [row for row in deaths.live_sessions(contents) if not row.program]
    if older:
        raise LockedError(
            f"an older program is at work: {_named(older)}",
            hint="update vmbackup there when that has ended (`vmbackup-lock list` shows it); of "
            "a host that has crashed: "
            f"vmbackup-lock recover {quoted(older[0].node)}",
        )


def upgrade(database: Database, prepare: Callable[[], None] = lambda: None) -> None:
    """Brings the database into the newest format, or finishes that.

    Killed at any point, the same call does. Nothing to do is no error.

    Sessions of this machine that are dead are ended first. `prepare` makes what the new
    format demands besides; if it raises, the database stays as it was. Raises `LockedError` as
    `require_no_older_program` does.
    """
    contents = database.head().contents
    database.require_writable()
    if formats.is_older(contents.format):
        rows = deaths.live_sessions(contents)
        recovery.expire(database, deaths.find_here(database, rows), WORKER)
        require_no_older_program(database.head().contents)
        prepare()
        contents = database.commit_once(
            upgraded, f"upgrade from version {contents.format} to {formats.NEWEST}", WORKER
        ).contents
    settings = read_version(database.root)
    if settings.database_version != contents.format:
        settings = replace(
            settings, tool_version=package_version("vmbackup"), database_version=contents.format
        )
        replace_version(database.root, settings)


def upgraded(contents: Contents) -> Contents:
    """The change: it asks of the very contents that it is built upon. Raises `LockedError`."""
    require_no_older_program(contents)
    return (
        replace(contents, format=formats.NEWEST) if formats.is_older(contents.format) else contents
    )


def _named(rows: Iterable[SessionRecord]) -> str:
    return ", ".join(
        f"{row.id} ({row.worker} on {row.node})" for row in sorted(rows, key=lambda row: row.id)
    )
