"""What is waited for.

The disk of a clone that is still locked for a moment after its export, a VM that is still being
saved.
"""

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from shared.host.errors import VBoxManageError
from shared.virtualbox import live_clone
from shared.virtualbox.clone_parts import Made
from shared.virtualbox.export_checks import DiskUse
from shared.virtualbox.export_errors import VmBusyError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.live_clone import Clones
from tests.unit.state.builders import StillClock


def removal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uses: list[DiskUse]
) -> tuple[list[tuple[str, ...]], StillClock]:
    """Removes a clone whose disk is used as `uses` says, look by look and then for ever.

    What was asked of VBoxManage, and the clock.
    """
    monkeypatch.setattr(
        live_clone, "disk_use", lambda *_: uses.pop(0) if len(uses) > 1 else uses[0]
    )
    vboxmanage, clock = Mock(), StillClock()
    original = Machine("a", "web", str(tmp_path / "web.vbox"))
    clone = Machine("b", "vmbackup-7", str(tmp_path / "vmbackup-7" / "vmbackup-7" / "x.vbox"))
    try:
        Clones(vboxmanage, clock).unregister(
            clone, original, Made("vmbackup-7", tmp_path / "vmbackup-7", "b")
        )
    finally:
        commands = [call.args[1:] for call in vboxmanage.run_long.call_args_list]
    return commands, clock


def test_a_lock_that_is_just_being_released_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands, clock = removal(monkeypatch, tmp_path, [DiskUse.READ, DiskUse.READ, DiskUse.FREE])
    assert commands == [("unregistervm", "b")]
    assert len(clock.slept) == 2


def test_a_clone_that_is_still_exported_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(VmBusyError, match="vmbackup-7 is still being exported"):
        removal(monkeypatch, tmp_path, [DiskUse.READ])


def test_a_clone_that_was_moved_elsewhere_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(live_clone, "disk_use", lambda *_: DiskUse.FREE)
    vboxmanage, moved = Mock(), Machine("b", "vmbackup-7", str(tmp_path / "elsewhere" / "x.vbox"))
    with pytest.raises(VBoxManageError, match="was moved to"):
        Clones(vboxmanage, StillClock()).unregister(
            moved, None, Made("vmbackup-7", tmp_path / "vmbackup-7", "b")
        )
    assert vboxmanage.run_long.call_args_list == []


@pytest.mark.broad
def test_a_pause_that_is_still_asked_for_is_waited_for(tmp_path: Path) -> None:
    """Whoever pauses the VM was killed, and the VBoxManage that it had started was not."""
    machine = Machine("aaaaaaaa-0000-0000-0000-000000000000", "web", str(tmp_path / "web.vbox"))
    vboxmanage = Mock(**{"info.return_value": Mock(stopped=False, state="running")})
    words = [sys.executable, "-c", "input()", "controlvm", machine.uuid, "pause"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as asking:
        with pytest.raises(VmBusyError, match="still being asked"):
            Clones(vboxmanage, StillClock()).settled(machine, "vmbackup-7")
        asking.communicate()
    Clones(vboxmanage, StillClock()).settled(machine, "vmbackup-7")
