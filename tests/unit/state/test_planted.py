"""What somebody else put in the place of a file of the database: read in little time and memory."""

import hashlib
import os
import resource
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shared.host.errors import DatabaseDamagedError, VmBackupError
from shared.nas.reading import LIMIT_BYTES
from shared.state.contents import Contents
from shared.state.sessions.heartbeat import parse_beat, read_beat
from shared.state.store import generations
from shared.state.store.database import Database
from shared.state.store.layout import generation_name
from shared.state.store.opening import read_version
from shared.state.store.operations import ReadLease, ReadView
from shared.state.store.snapshot import decode
from tests.unit.state.builders import vm

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


@pytest.mark.broad
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


def sealed(root: Path, number: int, unknown: str) -> None:
    """Generation `number`, as long as can be, with a right seal: a node with an unknown field.

    It is a list of nothing but `unknown`.
    """
    path = root / "gen" / generation_name(number)
    before = path.read_bytes().rpartition(b"sha256 ")[0].decode().split("\n")
    at = next(place for place, line in enumerate(before) if line.startswith("nodes "))
    count = (LIMIT_BYTES - 10_000) // (len(unknown.encode()) + 1)
    before[at : at + 1 + int(before[at].split()[1])] = [
        "nodes 1",
        f'{{"name":"other","machine":"m","new":[{",".join([unknown] * count)}]}}',
    ]
    body = "\n".join(before).encode()
    path.unlink()
    path.write_bytes(body + f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode())


@pytest.mark.broad
@pytest.mark.parametrize("unknown", ["[]", "{}"])
def test_a_sealed_generation_of_nothing_but_brackets_is_refused(
    database: Database, unknown: str
) -> None:
    """Each takes thirty times the memory of its two characters, for as long as it is the newest."""
    sealed(database.root, 1, unknown)
    tracemalloc.start()
    try:
        with pytest.raises(DatabaseDamagedError, match="more than 1000000 lists and objects"):
            database.head()
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("unknown", ['"ab"', "1e9", '"\U0001f600"'])
def test_the_longest_that_is_sealed_is_read_in_a_gigabyte(database: Database, unknown: str) -> None:
    sealed(database.root, 1, unknown)
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, before[1]))
    try:
        assert database.head().contents.nodes["other"].extra["new"]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        decode.cache_clear()


@pytest.mark.broad
def test_what_nobody_could_read_is_not_committed(database: Database) -> None:
    """Or everybody would be refused for good. What makes it smaller goes on."""

    def grow(contents: Contents) -> Contents:
        return contents.with_vm(replace(vm("web01"), extra={"new": "x" * LIMIT_BYTES}))

    before = database.head()
    with pytest.raises(VmBackupError, match="nothing can be committed any more") as raised:
        database.commit_once(grow, "grow", "test")
    assert "vmbackup-admin forget" in raised.value.hint
    assert database.head() == before
    assert list((database.root / "tmp").iterdir()) == []
