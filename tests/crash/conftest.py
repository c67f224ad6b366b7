"""Worlds that end with the test."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.world import Programs, World


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """The programs, loaded once."""
    made = Programs()
    yield made
    made.end()


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Where worlds are made, one after the other: a folder, and one on another file system.

    What a world remembers, the next can recall.
    """
    elsewhere = Path(tempfile.mkdtemp(prefix="vmbackup-crash.", dir="/dev/shm"))
    yield tmp_path_factory.mktemp("crash"), elsewhere
    shutil.rmtree(elsewhere)


@pytest.fixture
def make_world(programs: Programs, places: tuple[Path, Path]) -> Iterator[Callable[..., World]]:
    """Makes the world of a test; `archive="elsewhere"` puts the archive on another file system."""
    folder, elsewhere = places
    made: list[World] = []

    def make(archive: str = "archive", **more: Any) -> World:
        place = str(elsewhere / "archive") if archive == "elsewhere" else archive
        made.append(World(folder, elsewhere / "archive", programs, archive=place, **more))
        return made[-1]

    yield make
    for world in made:
        world.host.remove()
