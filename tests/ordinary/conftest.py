"""The world in which the cells of the table are run, one after the other."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.world import Programs
from tests.ordinary.configurations import CONFIGURATIONS
from tests.ordinary.names import prepare
from tests.ordinary.night import Night
from tests.ordinary.table import Cell
from tests.ordinary.world import World


@pytest.fixture(scope="session")
def ordinary_programs() -> Iterator[Programs]:
    """The programs, loaded once."""
    made = Programs()
    yield made
    made.end()


@pytest.fixture(scope="session")
def world(ordinary_programs: Programs) -> Iterator[World]:
    """In memory where that is possible: thousands of flushes to a disk would prove nothing more."""
    folder = Path(
        tempfile.mkdtemp(
            prefix="vmbackup-ordinary.", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        )
    )
    made = World(folder, ordinary_programs)
    yield made
    made.mounts.end()
    shutil.rmtree(folder)


def require(cell: Cell) -> None:
    """Skips the test where its cell cannot be tried; fails it in CI."""
    if not CONFIGURATIONS[cell.configuration].possible():
        reason = f"{cell.configuration}: needs root, or that file system"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def shorten_the_lease(world: World) -> None:
    """Hosts watch each other for two seconds; `init` allows no less than ten."""
    version = world.state / "vmtool-db-version"
    text = version.read_text(encoding="ascii")
    assert "LEASE_SECONDS: 10\n" in text
    version.chmod(0o640)
    version.write_text(text.replace("LEASE_SECONDS: 10\n", "LEASE_SECONDS: 2\n"), encoding="ascii")


@pytest.fixture
def night(world: World, request: pytest.FixtureRequest) -> Iterator[Night]:
    """Two hosts, of which alpha has a VM with two copies and one with a single one.

    In the situation of the test.
    """
    if not world.recall("night"):
        world.fresh()
        prepare(world, "plain")
        shorten_the_lease(world)
        world.remember("night")
        world.kept["night"] = world.diary.copy()
    world.diary = world.kept["night"].copy()
    world.told.clear()
    yield Night(world, request.function.situation)
    for host in world.hosts.values():
        host.lose_power()
    world.nas_settings.clear()
    world.backup.clear()
    world.mounts.end()
