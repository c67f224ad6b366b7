"""Worlds that end with the test."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.world import Programs, World

#: `VMBACKUP_PROVE=1` kills at every point: before it, in the middle of it, after it; as far as it comes in `VMBACKUP_PROVE_SECONDS`.
PROVE = os.environ.get("VMBACKUP_PROVE", "") not in ("", "0")
PROVE_SECONDS = float(os.environ.get("VMBACKUP_PROVE_SECONDS", "3000"))


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """The programs, loaded once."""
    made = Programs()
    yield made
    made.end()


@pytest.fixture
def make_world(programs: Programs, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds; `archive="elsewhere"` puts the archive on another file system."""
    elsewhere = Path(tempfile.mkdtemp(prefix="vmbackup-crash.", dir="/dev/shm"))
    made: list[World] = []

    def make(archive: str = "archive", **more: Any) -> World:
        place = str(elsewhere / "archive") if archive == "elsewhere" else archive
        (elsewhere / "archive").mkdir()
        made.append(World(tmp_path, elsewhere / "archive", programs, archive=place, **more))
        return made[-1]

    yield make
    for world in made:
        world.host.remove()
    shutil.rmtree(elsewhere)
