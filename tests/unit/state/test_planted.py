"""What somebody else put in the place of a file of the database: read in little time and memory."""

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.host.errors import VmBackupError
from shared.state.sessions.heartbeat import parse_beat, read_beat
from shared.state.store import generations
from shared.state.store.database import Database
from shared.state.store.layout import generation_name
from shared.state.store.opening import read_version
from shared.state.store.operations import ReadLease, ReadView

SECONDS, BYTES = 30, 1 << 30


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(40 << 30)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a path of a socket may be no longer than 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


PLANTED = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a directory": os.mkdir,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file": lambda path: path.symlink_to("/etc/passwd"),
    "40 GB of nothing": _sparse,
}
READ: dict[str, tuple[str, Callable[[Database], object]]] = {
    "generation": (
        f"gen/{generation_name(1)}",
        lambda database: generations.read_number(database.root, 1),
    ),
    "newest generation": (f"gen/{generation_name(2)}", Database.head),
    "version": ("vmtool-db-version", lambda database: read_version(database.root)),
    "view": ("vmtool-statedb", lambda database: database.files.perform(ReadView())),
    "lease": ("vmtool-dblock", lambda database: database.files.perform(ReadLease())),
    "heartbeat": (
        "node/alpha.1",
        lambda database: parse_beat(read_beat(database.root / "node", "alpha.1")),
    ),
}


@contextmanager
def bounded() -> Iterator[None]:
    """What is inside takes little time, and asks for a gigabyte of memory more at most."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    began = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - began < SECONDS


@pytest.mark.timeout(60)
@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("name", READ)
def test_it_is_refused_or_cut_off(database: Database, name: str, planted: str) -> None:
    """An error in words, or what is too long to be ours: never a wait, a traceback, a secret."""
    relative, read = READ[name]
    path = database.root / relative
    path.unlink(missing_ok=True)
    PLANTED[planted](path)
    found: object = None
    with bounded():
        try:
            found = read(database)
        except (VmBackupError, OSError) as error:
            found = str(error)
    assert "root:" not in str(found)[:10_000]
    assert not isinstance(found, bytes) or len(found) <= (1 << 24) + 1
