"""`mount` where there is a copy already whose server does not answer."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from shared.host.errors import ExitCode
from shared.serving import asking
from tests.support.copies import ova, put_copy
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_mounting import fuse, mount

__all__ = ["fuse"]
#: None of the waits that are looked for ends by itself within a test.
_FOREVER = 200.0


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    """A VM with a copy that is quick to mount."""
    site_with_database.add_vms("web")
    put_copy(site_with_database.nas / "web", "20261122T203800Z-17", ova())
    return site_with_database


@pytest.mark.slow
@pytest.mark.usefixtures("fuse")
def test_a_server_that_was_stopped_is_not_waited_for_long(
    web: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took 20 s, and "umount it first" was refused then."""
    place = tmp_path / "place"
    place.mkdir()
    pid = mount(web, place)["pid"]
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(asking, "ASK_SECONDS", _FOREVER)
    began = time.monotonic()
    try:
        refused = web.admin("mount", "web", str(place))
        assert time.monotonic() - began < _FOREVER / 10
        assert (refused.exit_code, "does not answer" in refused.stderr) == (ExitCode.USAGE, True)
        assert f"`vmbackup-admin umount --force {place}` ends it" in refused.stderr
        monkeypatch.setattr(asking, "ASK_SECONDS", 0.3)
        assert web.admin("umount", "--force", str(place)).exit_code == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
