"""VBoxManage commands that run in the background: started, watched, cancelled.

Measured on VirtualBox 7.2.22: VBoxSVC does the work of an export or import, VBoxManage only shows
its progress. SIGINT and SIGTERM make VBoxManage cancel it within a second, and what was written is
removed. After SIGKILL or SIGHUP VBoxSVC goes on to the end by itself; VBoxSVC itself must never be
ended, since that kills all running VMs of its user.
"""

import os
import signal
import threading
from typing import IO, Final

from shared.host.processes import ChildProcess, Completed
from shared.virtualbox.vboxmanage import UNREACHED, VBoxManage, cannot_start

_TAIL_BYTES: Final = 2**16
_ATTEMPTS: Final = 5


class Background:
    """One such command. Raises `VBoxManageError` if VBoxManage cannot be started.

    If VBoxManage says that it did not reach VBoxSVC, which happens on a busy machine, it has done
    nothing, and is started again.
    """

    def __init__(self, vboxmanage: VBoxManage, *arguments: str) -> None:
        self._vboxmanage, self._arguments = vboxmanage, arguments
        self._attempts_left = _ATTEMPTS
        self._start()

    def _start(self) -> None:
        self._attempts_left -= 1
        try:
            self._process = ChildProcess(
                [self._vboxmanage.program, *self._arguments],
                environment=self._vboxmanage.environment,
                ends_with_parent=True,
            )
        except OSError as error:
            raise cannot_start(self._vboxmanage.program, error) from None
        self._stdout, self._stderr = _Tail(self._process.stdout), _Tail(self._process.stderr)
        self.identity = self._process.identity()

    def said(self) -> str:
        """What it has printed on stderr so far: its progress, then errors."""
        return self._stderr.text()

    def poll(self) -> bool:
        """Whether it has ended, well or not.

        Raises `VBoxManageError` if it has to be started again, and VBoxSVC is not to be reached.
        """
        if self._process.poll() is None:
            return False
        if self._attempts_left and UNREACHED in self._stderr.whole():
            self._vboxmanage.reach()
            self._start()
            return False
        return True

    def cancel(self, timeout_seconds: float) -> bool:
        """Asks it to stop and waits at most so long; returns whether it has ended.

        It may have succeeded in the meantime.

        INT, then TERM; never KILL, which would leave VBoxSVC at work with nobody watching.
        """
        self._attempts_left = 0
        signals = (signal.SIGINT, signal.SIGTERM)
        return self._process.end(timeout_seconds / len(signals), signals, alone=True)

    def completed(self) -> Completed | None:
        """How it ended; None if it still runs."""
        status = self._process.poll()
        if status is None:
            return None
        return Completed(
            ("VBoxManage", *self._arguments[:1]), status, self._stdout.whole(), self._stderr.whole()
        )


class _Tail:
    """The last bytes of a stream, read by a thread so that the writer is never held up."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        if stream is None:
            raise ValueError("the process has no such stream")
        self._stream, self._data = stream, b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self._stream:
            while chunk := os.read(self._stream.fileno(), _TAIL_BYTES):
                self._data = (self._data + chunk)[-_TAIL_BYTES:]

    def text(self) -> str:
        """What is known so far."""
        return self._data.decode("utf-8", errors="backslashreplace")

    def whole(self) -> str:
        """All of it, once the process has ended.

        The wait is bounded: something that it started may keep the stream open.
        """
        self._thread.join(timeout=5)
        return self.text()
