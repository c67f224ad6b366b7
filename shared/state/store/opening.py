"""Opening a state database: which one it is, and whether this program may write to it."""

import os
from pathlib import Path
from typing import Final

from shared.host.clock import Clock
from shared.host.errors import DatabaseDamagedError
from shared.host.host_identity import HostIdentity
from shared.nas.nas_errors import nas_error
from shared.nas.reading import list_fresh, open_file, read_file
from shared.state import formats
from shared.state.store import version
from shared.state.store.database import Database
from shared.state.store.generations import no_database
from shared.state.store.layout import (
    DIRECTORIES,
    generation_file,
    generation_name,
    generation_numbers,
)
from shared.state.store.state_files import StateFiles

#: Longer than any `vmtool-db-version`.
_VERSION_BYTES: Final = 1 << 16
#: Longer than the first line of any generation.
_LINE_BYTES: Final = 64


def open_database(
    root: Path,
    identity: HostIdentity,
    clock: Clock,
    notes: Path | None = None,
    *,
    reading: bool = False,
) -> Database:
    """Opens the state database below `root` (`$NAS_MOUNTPOINT/vmstate`).

    One of a format that this program does not know is opened for `reading` only, and then nothing
    of it writes. Raises `NoDatabaseError` if there is none, `DatabaseVersionError` or
    `DatabaseDamagedError` if it cannot be used, `NasError`.
    """
    settings = read_version(root)
    _refuse_links(root)
    database = Database(
        StateFiles(root, clock, settings.primitive), settings, identity, clock, notes
    )
    database.note_format(_newest_format(root))
    if not reading:
        database.require_writable()
    return database


def require_writable(root: Path) -> None:
    """Raises `DatabaseVersionError` if this program must not write the format of what is in `root`.

    The newest generation names it in its first line, and `vmtool-db-version` as well: whichever is
    newer counts.
    """
    try:
        named = version.format_of(read_file(root / "vmtool-db-version", _VERSION_BYTES))
    except OSError:
        named = None
    for found in (named, _newest_format(root)):
        if found is not None:
            formats.require_known(found)


def _newest_format(root: Path) -> str | None:
    """The format of the newest generation, by its first line: a listing and one short read.

    None if that cannot be told.
    """
    try:
        number = max(generation_numbers(list_fresh(root / "gen")), default=0)
        with open_file(generation_file(root / "gen" / generation_name(number))) as file:
            return formats.named(file.readline(_LINE_BYTES).decode("utf-8", "replace").rstrip("\n"))
    except OSError:
        return None


def _refuse_links(root: Path) -> None:
    """Raises `DatabaseDamagedError` if a directory of the database is a link.

    Files behind it would be written, and swept.
    """
    try:
        with os.scandir(root) as entries:
            links = [
                entry.name for entry in entries if entry.name in DIRECTORIES and entry.is_symlink()
            ]
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
    if links:
        raise DatabaseDamagedError(
            f"{root / links[0]} is a symbolic link, and must be a directory",
            hint=(
                "find out who put it there; then put the directory back, or make an empty one "
                "(`tmp`, `node`, `history`)"
            ),
        )


def read_version(root: Path) -> version.DatabaseVersion:
    """Reads `vmtool-db-version` below `root`. Raises as `open_database` does."""
    try:
        list_fresh(root)
        return version.parse(read_file(root / "vmtool-db-version", _VERSION_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise no_database(root) from None
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
