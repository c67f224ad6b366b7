"""The terminal goes away, or somebody says TERM, while a VM is saved for its export.

The VM runs again afterwards.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.simulated.conftest import Rig
from tests.support.simulated import SimulatedVm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("hang_up_heeded")


def program(
    rig: Rig, *arguments: str, before: Sequence[str] = (), reserve: int = 0, **backup: object
) -> "subprocess.Popen[str]":
    """A worker of alpha as a process of its own, in a process group of its own, as a shell would
    start it.
    """
    host = rig.host()
    tables: dict[str, dict[str, object]] = {
        "nas": {"mountpoint": str(rig.nas), "require_mount": False, "reserve": reserve},
        "host": {"node": "alpha", "state_directory": str(rig.folder / "state-alpha")},
        "virtualbox": {"vboxmanage": str(host.vboxmanage), "home": str(host.home)},
        "backup": {"engine": "vboxmanage", "retry_seconds": 0, "running_hours": 0, **backup},
    }
    config = rig.folder / "config.toml"
    config.write_text(
        "\n".join(
            f"[{name}]\n"
            + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
            for name, table in tables.items()
        )
    )
    command = [*before, sys.executable, "-m", "worker.cli", "--config", str(config), *arguments]
    return subprocess.Popen(
        command, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0
    )


@pytest.fixture
def exported(rig: Rig) -> SimulatedVm:
    """A running VM that is due, and whose export takes longer than the test."""
    vm = rig.host().make_vm("web01")
    vm.start()
    rig.look()
    process = program(rig, "notifier", running="savestate")
    assert process.communicate(timeout=30)[1] == ""
    rig.host().fault(vm, export_seconds=60)
    return vm


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("worker", ["backup", "run"])
def test_a_vm_that_was_saved_for_its_export_runs_again_after_a_hang_up(
    rig: Rig, exported: SimulatedVm, worker: str, number: signal.Signals
) -> None:
    process = program(rig, worker, running="savestate")
    wait_for(rig.host().exports)
    assert exported.info("VMState") == "saved"
    os.killpg(process.pid, number)  # the terminal tells the whole group
    os.killpg(process.pid, number)  # and the shell does so once more
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert exported.info("VMState") == "running"
    assert rig.host().exports() == []
    record = rig.record("web01")
    assert (record.power, record.claim, rig.files("web01")) == (None, None, [])
    assert f"it was ended by {number.name}" in record.last_error


def test_what_was_started_with_nohup_is_not_ended_by_a_hang_up(
    rig: Rig, exported: SimulatedVm
) -> None:
    rig.host().fault(exported, export_seconds=2)
    process = program(rig, "run", before=["nohup"], running="savestate")
    wait_for(rig.host().exports)
    os.killpg(process.pid, signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 4), said
    assert (exported.info("VMState"), rig.record("web01").last_copy is None) == ("running", False)
