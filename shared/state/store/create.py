"""Making a new state database."""

import contextlib
import os
import secrets
import stat
import uuid
from importlib.metadata import version as package_version
from pathlib import Path

from shared.host.clock import Clock, timestamp
from shared.host.errors import LockedError, NasError
from shared.host.host_identity import HostIdentity
from shared.nas.nas_errors import nas_error
from shared.nas.reading import list_fresh, read_file
from shared.nas.writing import DIRECTORY_MODE, make_directory, sync_directory, write_new_file
from shared.state.contents import Contents
from shared.state.store import version
from shared.state.store.database import Database
from shared.state.store.header import NO_PREVIOUS, Header
from shared.state.store.layout import DIRECTORIES, Primitive
from shared.state.store.opening import open_database, require_writable
from shared.state.store.operations import (
    PublishGeneration,
    RemoveTemporary,
    SyncGeneration,
    WriteTemporary,
)
from shared.state.store.snapshot import encode


def create(
    root: Path,
    identity: HostIdentity,
    clock: Clock,
    lease_seconds: float = version.DEFAULT_LEASE_SECONDS,
    *,
    floor: int = 0,
) -> Database:
    """Makes a new state database in `root`, or finishes making one that was interrupted.

    Two hosts may do so at once.

    Claims get numbers above `floor`: the highest that the names of copies have which are there
    already. Raises `LockedError` if there already is one, `NasError` if the NAS cannot hold one.
    """
    require_writable(root)
    try:
        make_directories(root)
        if list_fresh(root / "gen"):
            raise LockedError(
                f"there already is a state database in {root}",
                hint="vmbackup-admin status shows what is in it",
            )
        settings = version.DatabaseVersion(
            package_version("vmbackup"), str(uuid.uuid4()), lease_seconds, probe_primitive(root)
        )
        _publish_version(root, settings)
        sync_directory(root)
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
    database = open_database(root, identity, clock)
    first = genesis(database.version.repository, identity.node, timestamp(clock.now()), floor)
    begin(database, first, 1)
    return database


def make_directories(root: Path) -> None:
    """Makes what a database needs in `root`; what is there stays. Raises OSError."""
    for name in ("", *DIRECTORIES):
        with contextlib.suppress(FileExistsError):
            # the first does not take after the top of the NAS
            make_directory(root / name, None if name else DIRECTORY_MODE | stat.S_ISGID)


def begin(database: Database, first: bytes, number: int) -> None:
    """Publishes the generation with which the history of a database begins."""
    for operation in (
        WriteTemporary("genesis", first),
        PublishGeneration("genesis", number),
        RemoveTemporary("genesis"),
        SyncGeneration(number),
    ):
        database.files.perform(operation)
    database.publish_view()


def _publish_version(root: Path, settings: version.DatabaseVersion) -> None:
    """Gives the version file its name when it is whole.

    Killed while it is written, `init` can be repeated. The first one stays.
    """
    temporary = root / "tmp" / f"version.{secrets.token_hex(6)}"
    write_new_file(temporary, settings.render())
    try:
        if settings.primitive == "link":
            with contextlib.suppress(FileExistsError):
                os.link(temporary, root / "vmtool-db-version", follow_symlinks=False)
        elif "vmtool-db-version" not in list_fresh(
            root
        ):  # no way to refuse: two hosts that make one database at once find out
            os.rename(temporary, root / "vmtool-db-version")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def probe_primitive(root: Path) -> Primitive:
    """How this NAS can give a name to a file without replacing one: tried, not guessed.

    Raises `NasError` if it can in no way.
    """
    token = secrets.token_hex(6)
    first, second = root / "tmp" / f"probe.{token}.1", root / "tmp" / f"probe.{token}.2"
    try:
        write_new_file(first, b"1")
        write_new_file(second, b"2")
        if _refuses(os.link, first, second) and _succeeds(first, root / "tmp" / f"probe.{token}.3"):
            return "link"
        if _directory_refuses(root / "tmp", token):
            return "directory"
    finally:
        _remove_probes(root / "tmp", token)
    raise NasError(
        (
            f"the file system of {root} replaces files where it must refuse to: no state database "
            f"can be kept there safely"
        ),
        hint="mount it by NFS 3, NFS 4 or SMB 3",
    )


def _refuses(operation: object, source: Path, target: Path) -> bool:
    """Whether an existing target survives.

    The error code is not believed: the content of the target decides.
    """
    with contextlib.suppress(OSError):
        operation(source, target)  # type: ignore[operator]
    return read_file(target) == b"2"


def _succeeds(source: Path, target: Path) -> bool:
    with contextlib.suppress(OSError):
        os.link(source, target)
    try:
        return read_file(target) == b"1"
    except OSError:
        return False


def _directory_refuses(directory: Path, token: str) -> bool:
    first, second = directory / f"probe.{token}.4", directory / f"probe.{token}.5"
    for path in (first, second):
        os.mkdir(path, DIRECTORY_MODE)
        write_new_file(path / "content", path.name.encode())
    with contextlib.suppress(OSError):
        os.rename(first, second)
    return read_file(second / "content") == second.name.encode()


def _remove_probes(directory: Path, token: str) -> None:
    for name in list_fresh(directory):
        if not name.startswith(f"probe.{token}."):
            continue
        path = directory / name
        with contextlib.suppress(OSError):
            if path.is_dir():
                os.unlink(path / "content")
                os.rmdir(path)
            else:
                os.unlink(path)


def genesis(repository: str, node: str, committed: str, floor: int = 0) -> bytes:
    """The first generation of a new database. Its claims get numbers above `floor`."""
    contents = Contents(claims_granted=floor)
    return first_generation(repository, 1, node, committed, "init", contents)


def first_generation(
    repository: str, number: int, node: str, committed: str, reason: str, contents: Contents
) -> bytes:
    """A generation that follows no other one: with it a history begins."""
    header = Header(repository, number, NO_PREVIOUS, "init", 1, node, committed, reason)
    return encode(header, contents)
