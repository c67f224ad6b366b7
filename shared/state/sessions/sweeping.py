"""Removing what dead sessions left in the directories of the state database."""

import contextlib
import logging
import os
import secrets
from pathlib import Path
from typing import Final

from shared.nas.reading import list_fresh, opened
from shared.nas.writing import DIRECTORY_MODE, WRITE_TEST, sync_directory
from shared.state.contents import Contents
from shared.state.sessions.deaths import live_sessions
from shared.state.sessions.host_look import PREFIX
from shared.state.store import exchange
from shared.state.store.database import Database

log: Final = logging.getLogger(__name__)

#: A temporary file or heartbeat file without a session is swept when it is older than this, by the
#: NAS's own clock.
SWEEP_SECONDS: Final = 24 * 3600
#: What filelock leaves of a take-over in which its process died, and a write test that was killed.
_DEBRIS: Final = ("vmtool-dblock.break.", "vmtool-dblock.restore.", f"{WRITE_TEST}.")


def sweep(database: Database, contents: Contents) -> list[str]:
    """Removes temporary files untouched for a day, and heartbeat files of sessions that are over.

    A tick with nothing to sweep lists three directories.
    """
    live = {row.id for row in live_sessions(contents)}
    over = {identifier for identifier, row in contents.sessions.items() if row.state != "live"}
    with database.nas_errors():
        found = [
            database.root / folder / name
            for folder in ("tmp", "node")
            for name in list_fresh(database.root / folder)
        ]
        found += [
            database.root / name for name in list_fresh(database.root) if name.startswith(_DEBRIS)
        ]
        doubtful = [
            path for path in found if path.name not in live and not _is_look(path, contents)
        ]
        if not doubtful:
            return []
        now = nas_now(database)
        return [
            path.name
            for path in doubtful
            if (path.name in over or now - _touched(path) > SWEEP_SECONDS) and _removed(path)
        ]


def sweep_beside(database: Database) -> list[str]:
    """Removes what is beside the database and of no use: see `exchange.sweep`."""
    with database.nas_errors():
        return exchange.sweep(database.root.parent, lambda: nas_now(database))


def _is_look(path: Path, contents: Contents) -> bool:
    """Whether it is the file of a host that the database knows, however old that is."""
    name = path.name.removeprefix(PREFIX)
    return path.parent.name == "node" and path.name != name and name in contents.nodes


def _removed(path: Path) -> bool:
    """Removes a file, or the directory in which a generation was prepared.

    False if that did not work, which the next sweep repeats.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            with opened(path) as directory, contextlib.suppress(FileNotFoundError):
                os.unlink("snapshot", dir_fd=directory)
            os.rmdir(path)
        else:
            os.unlink(path)
    except OSError as error:
        log.info("not swept: %s", error)
        return False
    return True


def nas_now(database: Database) -> float:
    """What the NAS's clock says, asked by making a directory there.

    A directory's time is never the client's. Raises OSError.
    """
    database.require_writable()
    probe = database.root / "tmp" / f"clock.{secrets.token_hex(6)}"
    os.mkdir(probe, DIRECTORY_MODE)
    try:
        return os.stat(probe).st_mtime
    finally:
        os.rmdir(probe)
        sync_directory(database.root / "tmp")


def _touched(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return float("inf")
