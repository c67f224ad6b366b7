"""Real VirtualBox hosts that share a NAS directory; tests that need another set make their own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, Member
from tests.support.virtualbox import RealHost


@pytest.fixture
def fleet(make_virtualbox_host: Callable[[], RealHost], tmp_path: Path) -> Fleet:
    """Two real hosts and one NAS directory."""
    fleet = Fleet(tmp_path)
    for _ in range(2):
        fleet.add(make_virtualbox_host())
    return fleet


@pytest.fixture
def member(make_virtualbox_host: Callable[[], RealHost], tmp_path: Path) -> Member:
    """A real host with a NAS directory."""
    return Fleet(tmp_path).add(make_virtualbox_host())
