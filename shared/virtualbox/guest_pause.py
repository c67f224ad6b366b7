"""A VM that stands still for a moment: paused by a process that resumes it whatever happens here.

That process (`shared.virtualbox.pause_guard`) is started before the VM is paused, in a session of
its own.
"""

import os
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from shared.host.errors import VBoxManageError
from shared.host.processes import ChildProcess
from shared.virtualbox.export_errors import VmBusyError
from shared.virtualbox.vboxmanage import VBoxManage

_GUARD: Final = Path(__file__).with_name("pause_guard.py")
#: The first word of its command line.
GUARD: Final = "guard"
#: What it leaves in the folder of a clone while the VM is paused.
NOTE: Final = "paused"
#: VirtualBox now and then takes ten seconds for an answer.
_ANSWER_SECONDS: Final = 120.0
#: A guest that waits for its disks may be paused so long after that was asked for.
_PAUSE_SECONDS: Final = 600.0
_SAID: Final = {
    "changed": "it was resumed or switched off while its disks were cloned",
    "late": "its disks could not be cloned within pause_seconds",
    "gone": "the process that resumes it lost its caller",
    "": "the process that resumes it has ended",
}


class NotPausedError(Exception):
    """The VM was not paused for as long as it had to be. Says why, in words."""


class GuestPause:
    """Pauses one VM at a time, for so many seconds at most, with a note at `note`.

    `lasted`: for how many seconds it was; 0: that is not known.
    """

    def __init__(self, vboxmanage: VBoxManage, uuid: str, seconds: float, note: Path) -> None:
        self._vboxmanage, self._uuid = vboxmanage, uuid
        self._seconds, self._note = seconds, note
        self.lasted = 0.0

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Within, the VM is paused. Raises `NotPausedError` at the end if it was not throughout.

        What was made meanwhile counts only if nothing is raised. The VM goes on in any case.
        """
        theirs, ours = os.pipe()
        try:
            guard = self._start(theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        replies = _GuardReplies(guard, self._seconds)
        try:
            replies.expect("ready")
            _tell(ours, "pause")
            replies.expect("paused")
            yield
            _tell(ours, "release")
            paused = replies.expect("held")
        finally:
            os.close(ours)  # whatever happened, it lets the VM go on now
            guard.wait_at_most(_ANSWER_SECONDS)
            replies.close()
        self.lasted = self._since(paused)

    def _since(self, paused: str) -> float:
        """How long it was paused, which it was since that moment, by VirtualBox's clock."""
        with suppress(VBoxManageError):
            info = self._vboxmanage.info(self._uuid)
            if info.state == "running" and epoch_seconds(paused):
                return max(0.0, round(epoch_seconds(info.moment) - epoch_seconds(paused), 3))
        return 0.0

    def _start(self, stdin: int) -> ChildProcess:
        program = [sys.executable, "-I", "-S", str(_GUARD), GUARD]
        words = [self._uuid, str(self._seconds), str(self._note), self._vboxmanage.program]
        try:
            return ChildProcess(
                [*program, *words],
                environment=self._vboxmanage.environment,
                stdin=stdin,
                stderr=None,
            )
        except OSError as error:
            raise NotPausedError(f"no process that resumes it: {error.strerror}") from None


def _tell(descriptor: int, word: str) -> None:
    """One that has ended meanwhile has said why."""
    with suppress(BrokenPipeError):
        os.write(descriptor, f"{word}\n".encode())


class _GuardReplies:
    """What the guard says, line by line."""

    def __init__(self, guard: ChildProcess, seconds: float) -> None:
        if guard.stdout is None:
            raise ValueError("it has no output")
        self._stream, self._seconds = guard.stdout, seconds

    def expect(self, word: str) -> str:
        """What it says after this word. Raises `NotPausedError` if it says another one."""
        kind, _, more = self._line().partition(" ")
        if kind != word:
            raise NotPausedError(_SAID.get(kind) or f"it could not be paused: {more}")
        return more

    def _line(self) -> str:
        line, end = b"", time.monotonic() + self._seconds + _ANSWER_SECONDS
        while not line.endswith(b"\n"):
            left = max(0.0, end - time.monotonic())
            if not select.select([self._stream], [], [], left)[0]:
                raise NotPausedError("VirtualBox does not answer")
            byte = os.read(self._stream.fileno(), 1)
            if not byte:
                return ""
            line += byte
        return line.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Nothing more is heard."""
        with suppress(OSError):
            self._stream.close()


@contextmanager
def paused_by_its_user(vboxmanage: VBoxManage, uuid: str) -> Iterator[None]:
    """Within, a VM that its user has paused stays so. Raises `NotPausedError` if it did not."""
    before = vboxmanage.info(uuid)
    if before.state != "paused":
        raise NotPausedError(_SAID["changed"])
    yield
    after = vboxmanage.info(uuid)
    if (after.state, after.moment) != (before.state, before.moment):
        raise NotPausedError(_SAID["changed"])


def resume_left(vboxmanage: VBoxManage, uuid: str, note: Path) -> None:
    """Resumes a VM that a guard paused which was killed, by its `note`; without one: nothing.

    One that runs, or that its user has paused since, is left alone. Raises `VmBusyError` while it
    may still be paused, because that was asked for a while ago, and `VBoxManageError`.
    """
    try:
        text, asked = note.read_text(encoding="utf-8"), note.stat().st_mtime
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise VBoxManageError(f"{note} cannot be read: {error}") from None
    moment, known, snapshots = text.partition("\n")
    info = vboxmanage.info(uuid)
    if not moment and info.state == "running" and abs(time.time() - asked) < _PAUSE_SECONDS:
        raise VmBusyError("VirtualBox may still pause it", hint="the next tick looks again")
    ours = moment[:19] == info.changed if moment else epoch_seconds(info.changed) >= asked - 1
    current = re.search(r'^CurrentSnapshotUUID="(.*)"$', snapshots, re.MULTILINE)
    if known and info.snapshot != (current[1] if current else ""):
        ours = True  # VirtualBox has paused it anew after that snapshot
    if info.state == "paused" and ours:
        vboxmanage.run("controlvm", uuid, "resume")


def epoch_seconds(moment: str) -> float:
    """A moment of VirtualBox's in seconds since the epoch; 0 if it is none."""
    try:
        return datetime.fromisoformat(f"{moment}+00:00").timestamp()
    except ValueError:
        return 0.0
