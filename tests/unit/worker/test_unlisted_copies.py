"""When a host looks for copies of which no record tells."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from shared.host.clock import SystemClock
from shared.tasks.finding_unlisted import Unlisted
from worker import unlisted_copies
from worker.report import Report


def test_a_host_looks_once_a_day_in_each_of_its_repositories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may share the state directory: the first one must not have looked for the others."""
    looked: list[str] = []

    def find(site: Any, _contents: object) -> Unlisted:
        looked.append(site.configuration.nas.mountpoint.name)
        return Unlisted((), (), ())

    monkeypatch.setattr(unlisted_copies.finding_unlisted, "find", find)
    for name in ("one", "other", "one"):
        site: Any = Mock(clock=SystemClock())
        site.configuration.host.state_directory = tmp_path
        site.configuration.nas.mountpoint = Path("/mnt", name)
        assert unlisted_copies.due(site, Report()) == []
    assert looked == ["one", "other"]
