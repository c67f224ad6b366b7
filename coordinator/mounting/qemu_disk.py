"""A disk of a copy, or a part of one, as a file of this host: by nbdfuse, which asks qemu-nbd.

What is in a copy is not trusted. qemu gets nothing but a disk that our reader has found to be of
the one format that it may have: which tells qemu of no other file, and has no parent. It is told
the format, reads from the file that we have open, and never writes.
"""

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from coordinator.fuse import server_process
from coordinator.mounting.shown_files import ViewFile
from shared.host.errors import LockedError, VmBackupError
from shared.host.processes import ChildProcess, SubprocessRunner
from shared.nas.reading import drop_cached
from shared.ova.disk_reader import DiskReader
from shared.ova.vmdk import SECTOR
from shared.serving.places import FILE_SUBTYPE, mounted, unmount_file

#: What nbdfuse has as its standard input, and qemu-nbd from it.
_THE_COPY: Final = "/proc/self/fd/0"
_START_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_END_SECONDS: Final = 3.0


class QemuError(VmBackupError):
    """It does not show a disk, or another one than our reader."""


@dataclass
class QemuDisk:
    """One that is to be shown on the file `path`, from a copy that is open. End it.

    `what` is said to be mounted there; `errors` takes what the programs say.
    """

    disk: DiskReader
    file: ViewFile
    path: Path
    what: str
    copy: IO[bytes]
    errors: IO[bytes]

    def image(self) -> dict[str, Any]:
        """What qemu is told to read. Each layer may only read, and none has a file beneath it."""
        only = {"read-only": True, "auto-read-only": False}
        ova = {"driver": "file", "filename": _THE_COPY, "locking": "off", **only}
        place = {"offset": self.disk.member.position, "size": self.disk.member.size}
        member = {"driver": "raw", "file": ova, **place, **only}
        vmdk = {"driver": "vmdk", "file": member, "backing": None, **only}
        # the header has whole grains only, so that qemu's disk may be longer
        part = {"offset": self.file.start, "size": self.file.size}
        return {"driver": "raw", "file": vmdk, **part, **only}

    def start(self) -> None:
        """Shows it. Raises `QemuError`, OSError."""
        if not self.file.size or self.file.size % SECTOR or self.file.start % SECTOR:
            raise QemuError("its size or place is none of whole sectors")
        words = ["nbdfuse", "-r", "-o", "ro", "-o", f"fsname={self.what.replace(',', '_')}"]
        words += ["-o", f"subtype={FILE_SUBTYPE}"]
        words += ["-o", "allow_root"] if server_process.root_may_look() else []
        asked = ["qemu-nbd", "--read-only", f"json:{json.dumps(self.image())}"]
        self.errors.truncate(0)
        self._child = ChildProcess(
            [*words, str(self.path), "[", *asked, "]"],
            stdin=self.copy,
            stdout=self.errors,
            stderr=self.errors,
            ends_with_parent=True,
        )
        try:
            self._wait()
            if (shown := self.path.stat().st_size) != self.file.size:
                raise QemuError(f"qemu-nbd shows {shown} bytes of {self.file.size}")
        except BaseException:
            self.end()
            raise

    def ended(self, seconds: float = 0) -> bool:
        """Whether it is not mounted any more; waits so long at most until it is."""
        return self._child.wait_at_most(seconds) is not None

    def lost(self) -> bool:
        """Whether qemu-nbd has ended, as it does after a read that fails: all further ones do."""
        process = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children")
        try:
            started = process.read_text("ascii").split()
            return all(_is_gone(Path(f"/proc/{each}/stat")) for each in started)
        except OSError:  # it ends itself
            return False

    def restart(self) -> None:
        """Shows it again; who has it open gets errors until it is opened anew.

        Nothing is done while the copy cannot be read. Raises like `start`.
        """
        try:
            with open(f"/proc/self/fd/{self.copy.fileno()}", "rb", buffering=0) as again:
                drop_cached(again.fileno())
                os.pread(again.fileno(), SECTOR, self.disk.member.position)
        except OSError:
            return
        self.unmount()
        self.end()
        self.start()

    def unmount(self) -> None:
        """Also while it is open."""
        with contextlib.suppress(LockedError):  # it is not mounted any more
            unmount_file(str(self.path), SubprocessRunner())

    def end(self) -> None:
        """Ends what it started."""
        self._child.end(_END_SECONDS)

    def _wait(self) -> None:
        limit = time.monotonic() + _START_SECONDS
        while not any(str(self.path) in each.files for each in mounted()):
            if self._child.poll() is not None:
                raise QemuError(f"nbdfuse and qemu-nbd do not show it: {_said(self.errors)}")
            if time.monotonic() >= limit:
                raise QemuError(f"nbdfuse has not shown it in {_START_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)


def _is_gone(stat: Path) -> bool:
    try:
        return stat.read_text("utf-8", "replace").rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def _said(errors: IO[bytes]) -> str:
    """Their first words, without those that we told them."""
    text = os.pread(errors.fileno(), 4096, 0).decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].rpartition("': ")[2] if lines else "they say nothing"
