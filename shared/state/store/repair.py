"""Putting a damaged database back to work.

Each repair first makes sure that there is something to repair.
"""

import contextlib
import os
import re
import secrets
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Final

from shared.host.clock import SystemClock
from shared.host.errors import DatabaseDamagedError, DatabaseVersionError, UsageError
from shared.nas.nas_errors import nas_error
from shared.nas.reading import read_file
from shared.nas.writing import DIRECTORY_MODE, sync_directory, write_new_file
from shared.state.store import version
from shared.state.store.generations import (
    follows,
    newest_readable,
    numbers,
    read_bytes,
    read_number,
)
from shared.state.store.layout import Primitive, generation_name
from shared.state.store.opening import require_writable
from shared.state.store.operations import (
    PublishGeneration,
    RemoveTemporary,
    SyncGeneration,
    WriteTemporary,
)
from shared.state.store.snapshot import decode
from shared.state.store.state_files import StateFiles

_REBUILT: Final = re.compile(r"^REBUILT:\s*(\S{1,40})\s*$", re.MULTILINE)


def set_aside(root: Path, number: int) -> Path:
    """Moves the newest generation, which must be damaged, to `damaged/`.

    The one before it is the head again. Returns the new place.

    What only that generation said is lost; whoever committed it is refused at the next commit, and
    its work is done again. Raises `UsageError` if it is not the newest or is not damaged.
    """
    require_writable(root)
    present = numbers(root)
    if not present or number != present[-1]:
        raise UsageError(
            f"generation {number} is not the newest one",
            hint=f"the newest is {present[-1] if present else 'missing'}",
        )
    previous = present[-2] if len(present) > 1 else _bring_back(root, number - 1)
    if not _is_damaged(root, number, previous):
        raise UsageError(
            f"generation {number} is not damaged: it stays",
            hint="vmbackup-admin statedb check says what is wrong",
        )
    directory = root / "damaged"
    target = directory / f"{generation_name(number)}.{secrets.token_hex(4)}"
    try:
        os.makedirs(directory, DIRECTORY_MODE, exist_ok=True)
        os.rename(root / "gen" / generation_name(number), target)
        with contextlib.suppress(
            FileNotFoundError
        ):  # it showed the damaged generation, and would be taken for an edit by hand
            os.rename(root / "vmtool-statedb", directory / f"vmtool-statedb.{secrets.token_hex(4)}")
        sync_directory(root / "gen")
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
    return target


def _bring_back(root: Path, number: int) -> int:
    """Gives a generation of the history its name in `gen/` again, and returns its number.

    Raises `UsageError` if there is none that can be read.
    """
    try:
        data = read_bytes(root, number)
        if data is not None:
            decode(data, number)
    except (DatabaseDamagedError, DatabaseVersionError):
        data = None
    if data is None:
        raise UsageError(
            "there is no generation before it to go on from",
            hint="restore vmstate from a backup of the NAS, or `vmbackup-admin statedb rebuild` "
            "makes it anew of the copies",
        )
    files = StateFiles(root, SystemClock(), _primitive(root))
    for operation in (
        WriteTemporary(f"back.{number}", data),
        PublishGeneration(f"back.{number}", number),
        RemoveTemporary(f"back.{number}"),
        SyncGeneration(number),
    ):
        files.perform(operation)
    return number


def _primitive(root: Path) -> Primitive:
    newest = max(numbers(root), default=0)
    return "directory" if (root / "gen" / generation_name(newest)).is_dir() else "link"


def _is_damaged(root: Path, number: int, previous: int) -> bool:
    try:
        snapshot = read_number(root, number)
    except DatabaseDamagedError:
        return True
    before = read_number(root, previous)
    return (
        snapshot is not None
        and before is not None
        and previous + 1 == number
        and not follows(snapshot, before)
    )


def rebuild_version(root: Path, lease_seconds: float | None = None) -> version.DatabaseVersion:
    """Writes `vmtool-db-version` anew from the newest generation.

    A damaged file is kept as `vmtool-db-version.damaged-*`.

    The lease time is in no generation: it is `lease_seconds`, else what can still be read in the
    damaged file, else the default. Raises `UsageError` if the file is whole.
    """
    require_writable(root)
    head = newest_readable(root)
    path, token = root / "vmtool-db-version", secrets.token_hex(4)
    try:
        old = read_file(path)
    except OSError:
        old = b""
    with contextlib.suppress(DatabaseDamagedError):
        if version.parse(old).repository == head.header.repository:
            raise UsageError("vmtool-db-version is whole and belongs to this database: it stays")
    text = old.decode("utf-8", "replace")
    lease = lease_seconds or version.lease_in(text) or version.DEFAULT_LEASE_SECONDS
    said = _REBUILT.search(text)
    settings = version.DatabaseVersion(
        package_version("vmbackup"),
        head.header.repository,
        lease,
        _primitive(root),
        head.contents.format,
        version.rebuilt_in(said[1]) if said else "",
    )
    try:
        if old:
            write_new_file(root / f"vmtool-db-version.damaged-{token}", old)
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
    replace_version(root, settings)
    return settings


def replace_version(root: Path, settings: version.DatabaseVersion) -> None:
    """Replaces `vmtool-db-version`, which stays until the new one is whole. Raises `NasError`."""
    temporary = root / "tmp" / f"version.{secrets.token_hex(4)}"
    try:
        write_new_file(temporary, settings.render())
        os.replace(temporary, root / "vmtool-db-version")
        sync_directory(root)
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
