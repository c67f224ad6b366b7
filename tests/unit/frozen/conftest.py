"""Real file systems with reflinks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.file_systems import REFLINKING, mounted


@pytest.fixture(params=REFLINKING)
def reflinking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty file system with reflinks."""
    with mounted(request.param, tmp_path) as place:
        yield place


@pytest.fixture(params=["xfs", "btrfs"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """One that does not compress."""
    with mounted(request.param, tmp_path) as place:
        yield place
