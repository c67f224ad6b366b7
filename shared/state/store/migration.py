"""Taking over a state database of version 1.0."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from shared.host.clock import Clock, timestamp
from shared.host.errors import LockedError, NoDatabaseError
from shared.host.host_identity import HostIdentity
from shared.nas.nas_errors import nas_error
from shared.nas.reading import list_fresh, read_file
from shared.state.rules import adoption
from shared.state.states import State
from shared.state.store import version
from shared.state.store.create import create
from shared.state.store.generations import NEW_OR_LOST
from shared.state.store.opening import open_database, require_writable
from shared.state.store.readable_view import parse


def migrate(
    root: Path,
    identity: HostIdentity,
    clock: Clock,
    lease_seconds: float = version.DEFAULT_LEASE_SECONDS,
) -> Mapping[str, State]:
    """Takes over a database of version 1.0, and returns what it said of each VM.

    Its files are kept as `*.1.0`.

    Version 1.0 knows names and states only: a record gets its UUID and host from the first host
    that lists a VM of that name. Killed at any point, the same call finishes. Raises
    `NoDatabaseError` if there is nothing to migrate.
    """
    require_writable(root)
    old = read_old(root)
    try:
        for name in ("vmtool-statedb", "vmtool-db-version", "vmtool-dblock"):
            _set_aside(root, name)
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
    try:
        database = create(root, identity, clock, lease_seconds)
    except LockedError:
        database = open_database(root, identity, clock)
    when = timestamp(clock.now())
    database.commit_once(
        lambda contents: adoption.adopt_old(contents, old, when),
        "migrate from version 1.0",
        "migrate",
    )
    return old


def read_old(root: Path) -> Mapping[str, State]:
    """What a database of version 1.0 says of each VM, also if its migration was interrupted.

    Raises `NoDatabaseError`.
    """
    none_at_all = NoDatabaseError(
        f"there is no state database in {root}, neither of version 1.0 nor a newer one",
        hint=NEW_OR_LOST,
    )
    try:
        names = list_fresh(root)
        kept = "vmtool-statedb.1.0" if "vmtool-statedb.1.0" in names else "vmtool-statedb"
        if "gen" in names and kept == "vmtool-statedb" and list_fresh(root / "gen"):
            raise NoDatabaseError(
                f"there is no database of version 1.0 in {root}, but a newer one",
                hint="nothing has to be migrated: vmbackup-admin status shows what is in it",
            )
        if kept in names:
            return parse(read_file(root / kept))
        raise none_at_all
    except (FileNotFoundError, NotADirectoryError):
        raise none_at_all from None
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error


def _set_aside(root: Path, name: str) -> None:
    if f"{name}.1.0" in list_fresh(root):
        return
    with contextlib.suppress(FileNotFoundError):
        os.rename(root / name, root / f"{name}.1.0")
