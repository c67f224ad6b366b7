"""Commands that an operator has run around a backup: `before`, then `after` or `failed`.

They get facts in their environment.
"""

import logging
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Final, Literal

from shared.host.configuration import VmPolicy
from shared.host.errors import LockLostError, VmBackupError
from shared.host.processes import ChildProcess
from shared.host.waits import waiting
from shared.virtualbox.export_errors import VmRunsError

log: Final = logging.getLogger(__name__)

Event = Literal["before", "after", "failed"]

#: How much of what a command prints goes into the log: its end, where the reason of a failure is.
OUTPUT_BYTES: Final = 8192
#: How long a command may take when this worker is to end: whoever sends SIGTERM sends SIGKILL next.
HURRIED_SECONDS: Final = 30.0
#: Something that the command has left running may keep its output open for ever.
_DRAIN_SECONDS: Final = 1.0


class HookError(VmBackupError):
    """A command that has to succeed before a backup did not."""


def run(
    event: Event,
    command: Sequence[str],
    facts: Mapping[str, str],
    *,
    timeout_seconds: float,
    vm: str,
) -> None:
    """Runs `command` to its end, at most for so long; its output goes into the log.

    No command: nothing is done.

    Each fact is in its environment as `VMBACKUP_<NAME>`, and the event as VMBACKUP_EVENT. One that
    takes too long is ended with all that it started. Raises `HookError` if it cannot be started,
    takes too long, or ends with another status than 0.
    """
    if not command:
        return
    log.info("%s: running %s", event, command[0], extra={"vm": vm})
    try:
        process = ChildProcess(
            command,
            environment=dict(_environment({"event": event, **facts})),
            stderr=subprocess.STDOUT,
            ends_with_parent=True,
        )
    except (OSError, ValueError) as error:
        raise HookError(
            f"the command `{event}` cannot be started: {error}",
            hint="look at its path and rights in the configuration",
        ) from None
    output = _Output(process.stdout)
    try:
        with waiting(f"the command `{event}` of {vm}", timeout_seconds):
            status = process.wait_at_most(timeout_seconds)
        if status is None:
            process.end()
    except BaseException:
        process.end()
        raise
    finally:
        for line in output.lines():
            log.info("%s: %s", event, line, extra={"vm": vm})
    if status is None:
        raise HookError(
            f"the command `{event}` did not end within {timeout_seconds:g} s and was ended",
            hint="hook_seconds sets the limit",
        )
    if status:
        raise HookError(f"the command `{event}` failed ({_how(status)}){output.last()}")


def run_safely(
    event: Event,
    command: Sequence[str],
    facts: Mapping[str, str],
    *,
    timeout_seconds: float,
    vm: str,
) -> None:
    """Like `run`, but a failure is a warning only: what the backup has achieved stays as it is."""
    try:
        run(event, command, facts, timeout_seconds=timeout_seconds, vm=vm)
    except HookError as error:
        log.warning("%s", error.message, extra={"vm": vm})


class Hooks:
    """The commands around one backup. `facts` are those that do not change.

    After a `before` that succeeded, exactly one of `after` and `failed` is run, unless this process
    is killed. A `before` that failed is a failed backup, so `failed` is run.
    """

    def __init__(self, policy: VmPolicy, facts: Mapping[str, str], vm: str) -> None:
        self._policy, self._facts, self._vm = policy, facts, vm
        self._begun = False

    def before(self) -> bool:
        """Before anything is done to the VM; once, also if that is begun anew.

        Answers whether a command was run, which may have changed the VM. Raises `HookError`: then
        it is not backed up now.
        """
        if self._begun:
            return False
        seconds = self._policy.hook_seconds
        run(
            "before",
            self._policy.before,
            {**self._facts, "status": "begins"},
            timeout_seconds=seconds,
            vm=self._vm,
        )
        self._begun = True
        return bool(self._policy.before)

    def after(self, facts: Mapping[str, str]) -> None:
        """After a new good copy is in place."""
        facts = {**self._facts, **facts, "status": "done"}
        run_safely(
            "after",
            self._policy.after,
            facts,
            timeout_seconds=self._policy.hook_seconds,
            vm=self._vm,
        )

    def failed(self, error: str) -> None:
        """After a backup that failed, with the VM back in the state in which it was found."""
        facts = {**self._facts, "status": "failed", "error": error}
        run_safely(
            "failed",
            self._policy.failed,
            facts,
            timeout_seconds=self._policy.hook_seconds,
            vm=self._vm,
        )

    def given_up(self, error: BaseException) -> None:
        """After a backup that was given up and is no failure of the VM's.

        It runs, or this worker was displaced or interrupted.
        """
        if not self._begun:
            return
        status = (
            "deferred"
            if isinstance(error, VmRunsError)
            else "displaced"
            if isinstance(error, LockLostError)
            else "interrupted"
        )
        seconds = (
            self._policy.hook_seconds
            if status == "deferred"
            else min(self._policy.hook_seconds, HURRIED_SECONDS)
        )
        facts = {**self._facts, "status": status, "error": str(error)}
        run_safely("failed", self._policy.failed, facts, timeout_seconds=seconds, vm=self._vm)


def _environment(facts: Mapping[str, str]) -> Iterator[tuple[bytes, bytes]]:
    """In bytes, because names of VMs may have characters that the locale of cron cannot encode."""
    for name, value in facts.items():
        yield (
            f"VMBACKUP_{name.upper()}".encode(),
            value.replace("\0", "").encode("utf-8", "backslashreplace"),
        )


def _how(status: int) -> str:
    return f"status {status}" if status > 0 else f"signal {-status}"


class _Output:
    """The end of what a command prints, read by a thread so that the command is never held up."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        if stream is None:
            raise ValueError("the process has no output")
        self._stream, self._data, self._dropped = stream, b"", 0
        self._thread = threading.Thread(target=self._drain, name="hook-output", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self._stream:
            while chunk := os.read(self._stream.fileno(), OUTPUT_BYTES):
                data = self._data + chunk
                self._dropped += max(0, len(data) - OUTPUT_BYTES)
                self._data = data[-OUTPUT_BYTES:]

    def lines(self) -> list[str]:
        """What it printed, without empty lines."""
        self._thread.join(_DRAIN_SECONDS)
        lines = self._data.decode("utf-8", "backslashreplace").splitlines()
        left_out = [f"({self._dropped} bytes before this are left out)"] if self._dropped else []
        return [*left_out, *(line.rstrip() for line in lines if line.strip())]

    def last(self) -> str:
        """Its last line, for an error message."""
        lines = self.lines()
        return f": {lines[-1]}" if lines else ""
