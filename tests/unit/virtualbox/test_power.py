"""What is waited for: the disk of a clone that is still locked for a moment after its export, a VM that is still being saved."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from shared.virtualbox import power
from shared.virtualbox.export import DiskUse, VmBusyError
from shared.virtualbox.inventory import Machine
from tests.unit.statedb.builders import StillClock


def removal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uses: list[DiskUse]) -> tuple[list[tuple[str, ...]], StillClock]:
    """Removes a clone whose disk is used as `uses` says, look by look and then for ever; what was asked of VBoxManage, and the clock."""
    monkeypatch.setattr(power, "disk_use", lambda *_: uses.pop(0) if len(uses) > 1 else uses[0])
    vboxmanage, clock = Mock(), StillClock()
    original = Machine("a", "web", str(tmp_path / "web.vbox"))
    try:
        power.Power(vboxmanage, clock).remove_clone(original, Machine("b", "vmbackup-7", str(tmp_path / "x.vbox")), "vmbackup-7")
    finally:
        commands = [call.args for call in vboxmanage.run.call_args_list]
    return commands, clock


def test_a_lock_that_is_just_being_released_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands, clock = removal(monkeypatch, tmp_path, [DiskUse.READ, DiskUse.READ, DiskUse.FREE])
    assert commands == [("unregistervm", "b", "--delete")]
    assert len(clock.slept) == 2


def test_a_clone_that_is_still_exported_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(VmBusyError, match="vmbackup-7 is still being exported"):
        removal(monkeypatch, tmp_path, [DiskUse.READ])


@pytest.mark.parametrize(
    ("states", "commands"), [(["saving", "saving", "saved"], [("startvm", "a", "--type=headless")]), (["running"], [])]
)
def test_a_vm_whose_saving_was_interrupted_is_started_when_it_is_saved(states: list[str], commands: list[tuple[str, ...]]) -> None:
    vboxmanage, clock = Mock(), StillClock()
    found = [*states, "running"]
    vboxmanage.info.side_effect = lambda _: Mock(state=found[0], stopped=found.pop(0) == "saved")
    power.Power(vboxmanage, clock).bring_back("a", "running")
    assert [call.args for call in vboxmanage.run.call_args_list] == commands
