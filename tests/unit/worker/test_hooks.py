"""An operator's commands: what they are told, what is logged, and how long they may take."""

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from shared.host.configuration import VmPolicy
from shared.host.errors import LockLostError
from shared.virtualbox.export_errors import VmRunsError
from worker.backup import hooks
from worker.backup.hooks import HookError, Hooks, run

FACTS = {"vm": "we\udcffb", "error": "a\0b"}


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_facts_are_in_the_environment_and_output_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    run(
        "before",
        shell('echo "$VMBACKUP_EVENT/$VMBACKUP_ERROR/$VMBACKUP_VM/$HOME"; echo >&2 loud'),
        FACTS,
        timeout_seconds=10,
        vm="web",
    )
    messages = [record.getMessage() for record in caplog.records]
    assert messages[-2:] == [f"before: before/ab/we\\udcffb/{os.environ['HOME']}", "before: loud"]
    assert {record.vm for record in caplog.records} == {"web"}  # type: ignore[attr-defined]


def test_no_command_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run("after", [], {}, timeout_seconds=1, vm="web")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (shell("echo not now; exit 7"), "failed (status 7): not now"),
        (shell("kill -9 $$"), "failed (signal 9)"),
        (["/nonexistent/program"], "cannot be started"),
        (["a\0b"], "cannot be started"),
    ],
)
def test_a_failure_is_told_with_its_reason(command: list[str], reason: str) -> None:
    with pytest.raises(HookError) as caught:
        run("before", command, {}, timeout_seconds=10, vm="web")
    assert reason in caught.value.message


@pytest.mark.broad
def test_one_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(HookError, match=r"within 0\.5 s"):
        run(
            "before",
            shell(f"sleep 60 & echo $! >{tmp_path}/child; wait"),
            {},
            timeout_seconds=0.5,
            vm="web",
        )
    assert time.monotonic() - began < 10
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if (
            Path(f"/proc/{child}/stat").exists()
            and Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
        ):
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    pytest.fail("its child still runs")


@pytest.mark.broad
def test_a_child_that_stays_does_not_hold_the_backup_up(tmp_path: Path) -> None:
    began = time.monotonic()
    run("after", shell(f"sleep 20 & echo $! >{tmp_path}/child"), {}, timeout_seconds=15, vm="web")
    assert time.monotonic() - began < 10
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


@pytest.mark.broad
def test_much_output_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run("after", shell("yes line | head -c 5000000; echo end"), {}, timeout_seconds=30, vm="web")
    assert sum(len(record.getMessage()) for record in caplog.records) < 10 * hooks.OUTPUT_BYTES
    assert "4991812 bytes" in " ".join(record.getMessage() for record in caplog.records)
    assert caplog.records[-1].getMessage() == "after: end"


@pytest.fixture
def policy(tmp_path: Path) -> VmPolicy:
    note = shell(f'echo "$VMBACKUP_EVENT $VMBACKUP_STATUS $VMBACKUP_ERROR" >>{tmp_path}/log')
    return VmPolicy(before=note, after=note, failed=note, hook_seconds=10)


def said(tmp_path: Path) -> list[str]:
    return [line.strip() for line in (tmp_path / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (VmRunsError("runs"), "deferred runs"),
        (LockLostError("gone"), "displaced gone"),
        (SystemExit(143), "interrupted 143"),
    ],
)
def test_a_backup_that_is_given_up_undoes_what_before_did(
    tmp_path: Path, policy: VmPolicy, error: BaseException, status: str
) -> None:
    commands = Hooks(policy, {}, "web")
    commands.before()
    commands.given_up(error)
    assert said(tmp_path) == ["before begins", f"failed {status}"]


def test_nothing_is_undone_that_was_not_begun(tmp_path: Path, policy: VmPolicy) -> None:
    commands = Hooks(policy, {}, "web")
    commands.given_up(LockLostError("gone"))
    assert not (tmp_path / "log").exists()


def test_a_failing_after_or_failed_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    commands = Hooks(VmPolicy(after=["/bin/false"], failed=["/bin/false"]), {}, "web")
    commands.after({"size": "1"})
    commands.failed("why")
    assert [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ] == [
        "the command `after` failed (status 1)",
        "the command `failed` failed (status 1)",
    ]
