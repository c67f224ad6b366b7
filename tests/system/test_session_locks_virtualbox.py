"""Questions about a VM hold the lock of its session: one that is ended meanwhile costs the VM."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shared.host.hedging import HedgingRunner
from shared.host.processes import SubprocessRunner
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.virtualbox import RealHost, RealVm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox

#: The first question stands still in the middle of its answer, until `.go` is there. The second
#: one begins when it does.
HELD = """#!/bin/sh
if mkdir "$0.first" 2>/dev/null; then
    '{real}' "$@" | {{
        head -c 1 >"$0.begun"; until [ -e "$0.go" ]; do sleep 0.05; done; cat "$0.begun" -
    }}
else
    until [ -s "$0.begun" ]; do sleep 0.05; done
    exec '{real}' "$@"
fi
"""


@pytest.fixture
def vm(make_virtualbox_host: Callable[[], RealHost]) -> RealVm:
    """A VM that is off, of which there is more to say than fits into a pipe."""
    host = make_virtualbox_host()
    vm = host.make_vm("off")
    host.run("modifyvm", vm.uuid, f"--description={'x' * 100_000}")
    return vm


def held(vm: RealVm, name: str) -> Path:
    """A VBoxManage whose first answer is held up."""
    program = vm.host.folder / name
    program.write_text(HELD.format(real=vm.host.vboxmanage), encoding="utf-8")
    program.chmod(0o755)
    return program


def asking(vm: RealVm) -> list[psutil.Process]:
    return vm.host.processes(word="showvminfo")


def test_a_late_question_is_not_ended_while_it_holds_the_vm(vm: RealVm) -> None:
    """A VM that was off came out of its backup `aborted`, and counted as used."""
    program = held(vm, "late")
    vboxmanage = VBoxManage(str(program), SubprocessRunner(), 60, asking=HedgingRunner(0.5))
    assert vboxmanage.info(vm.uuid).state == "poweroff"
    assert asking(vm), "the first question was ended"
    program.with_name("late.go").touch()
    wait_for(lambda: not asking(vm), "the first question to end by itself")
    assert vm.info("VMState") == "poweroff"
    assert ' aborted="true"' not in vm.settings.read_text(encoding="utf-8")


def test_a_question_that_stood_still_for_all_of_its_time_is_answered_and_costs_the_vm_nothing(
    vm: RealVm,
) -> None:
    """It holds the VM when its time is over, and ends by itself as soon as it may."""
    program = held(vm, "overdue")
    late = HedgingRunner(60, patience_seconds=60)

    def let_go() -> None:
        wait_for(lambda: os.path.exists(f"{program}.begun"), "it to answer")
        wait_for(lambda: Path(f"{program}.begun").read_bytes() != b"", "it to answer")
        program.with_name("overdue.go").touch()

    helper = threading.Thread(target=let_go)
    helper.start()
    vboxmanage = VBoxManage(str(program), SubprocessRunner(), 0, asking=late)
    assert vboxmanage.info(vm.uuid).state == "poweroff"
    helper.join()
    assert vm.info("VMState") == "poweroff"


def test_virtualbox_takes_a_vm_for_crashed_when_a_question_about_it_is_killed(vm: RealVm) -> None:
    program = held(vm, "killed")
    command = [program, "showvminfo", vm.uuid, "--machinereadable"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: os.path.exists(f"{program}.begun"), "it to answer")
    wait_for(lambda: Path(f"{program}.begun").read_bytes() != b"", "it to answer")
    os.killpg(child.pid, signal.SIGTERM)
    child.wait(30)
    vm.wait_for_state("aborted")
