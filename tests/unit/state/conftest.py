"""A state database on a real directory, and its clock."""

from pathlib import Path

import pytest

from shared.state.store.create import create
from shared.state.store.database import Database
from tests.unit.state.builders import HERE, StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def database(tmp_path: Path, clock: StillClock) -> Database:
    (tmp_path / "nas").mkdir()
    return create(tmp_path / "nas" / "vmstate", HERE, clock)
