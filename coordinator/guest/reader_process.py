"""Reading what is inside the disks of a copy, by a child process that may fail.

Whatever a guest wrote into its disks, and whatever the library makes of that, ends with an error
here: the child's memory is bounded, and it is ended when it says nothing for too long.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coordinator.guest.frames import Frames
from shared.host.errors import CopyError, UsageError
from shared.host.extras import require_extra
from shared.host.processes import ChildProcess
from shared.host.waits import waiting

_CHILD: Final = (sys.executable, "-P", "-m", "coordinator.guest.reader_program")
_END_SECONDS: Final = 2.0


def require_library() -> None:
    """Raises `ConfigurationError` if the package that reads file systems is not installed."""
    require_extra("files", "pytsk3", "pytsk3", "file systems of guests are read by")


@dataclass(frozen=True, slots=True)
class GuestReader:
    """The disks of the copy at `ova`, or those that `disk` names: `N`, or `N.P` for a partition.

    `vm` is what commands take for the VM, for those that help. The child may have
    `memory` bytes, and be silent for `silence_seconds`. Of a directory `most` names are listed.
    """

    ova: Path
    disk: str = ""
    vm: str = "VM"
    memory: int = 2 << 30
    most: int = 10_000
    silence_seconds: float = 180.0
    command: Sequence[str] = _CHILD

    def systems(self) -> list[dict[str, Any]]:
        """What lies in each partition. Raises `CopyError`, also if the child fails."""
        return [message for message, _ in self._ask({"what": "systems"})]

    def list(self, path: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Where `path` is (`at`), and each thing in it (`entry`), or itself if it is a file.

        What could not be read, or was too much, comes as `problem`. Raises `UsageError` if several
        file systems have that path, `CopyError` if none has it, or the child fails.
        """
        for message, _ in self._ask({"what": "list", "path": list(path), "most": self.most}):
            yield message

    def get(self, path: Sequence[str], *, data: bool) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Where `path` is (`at`); then `begin`, for a file its `data`, and `end` of each thing.

        A directory comes before what is in it. Without `data` no file is read. Raises like `list`.
        """
        yield from self._ask({"what": "get", "path": list(path), "data": data})

    def compare(self, other: Path) -> Iterator[dict[str, Any]]:
        """What differs between the files of the copy and those of another, later one.

        A `system` for each partition, `difference` and `problem` behind it, and `alive` meanwhile.
        Raises `CopyError`, also if the child fails.
        """
        later = os.fsencode(other).decode("utf-8", "surrogateescape")
        for message, _ in self._ask({"what": "compare", "other": later}):
            yield message

    def _next(self, frames: Frames) -> tuple[dict[str, Any], bytes] | None:
        with waiting("the disks of the copy to be read", self.silence_seconds):
            return frames.next()

    def _ask(self, job: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], bytes]]:
        ova = os.fsencode(self.ova).decode("utf-8", "surrogateescape")
        settings = {"ova": ova, "disk": self.disk, "vm": self.vm, "memory": self.memory}
        with _started(self.command, {**job, **settings}) as child:
            if child.stdout is None:
                raise ValueError("the child's output is not read")
            frames = Frames(child.stdout.fileno(), self.silence_seconds)
            while (found := self._next(frames)) is not None:
                message, _ = found
                if message.get("kind") == "done":
                    return
                _raise_error(message)
                yield found
            status = child.wait_at_most(_END_SECONDS)
        raise CopyError(
            f"what reads the guest's file system ended in the middle ({_how(status)})",
            hint="the file system is damaged, or was made to do harm; `vmbackup-admin mount` shows "
            "the partition as a file for other programs",
        )


@contextlib.contextmanager
def _started(command: Sequence[str], job: Mapping[str, Any]) -> Iterator[ChildProcess]:
    """A child that does `job`; it is ended on the way out, whatever it does then."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb") as sink:
        child = ChildProcess(
            command, stdin=source, stderr=subprocess.DEVNULL, ends_with_parent=True
        )
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended: what follows says so
                sink.write(json.dumps(job, ensure_ascii=True).encode())
                sink.close()
            yield child
        finally:
            if child.poll() is None:
                child.end(_END_SECONDS, (signal.SIGKILL,))
            if child.stdout is not None:
                child.stdout.close()


def _raise_error(message: Mapping[str, Any]) -> None:
    if message.get("kind") == "usage":
        raise UsageError(str(message.get("text")), hint=str(message.get("hint")))
    if message.get("kind") == "error":
        raise CopyError(str(message.get("text")), hint=str(message.get("hint")))


def _how(status: int | None) -> str:
    if status is None:
        return "it hangs"
    return f"by signal {-status}" if status < 0 else f"with status {status}"
