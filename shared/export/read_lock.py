"""Keeps VirtualBox from changing a disk while we read its files: by its own read lock.

`VBoxManage mediumio --disk=… cat` holds the read lock of the disk and of all its parents for as
long as it writes, and it writes for as long as somebody reads: nobody does, so it waits with a full
pipe. Meanwhile VirtualBox refuses to start the VM, to delete its snapshots, to compact or resize
its disks; a snapshot may be taken (the files that we read are then frozen).

The command stays even when VBoxSVC is killed, and then protects nothing. So at the end it is read
on: a lock that lasted gives the disk's first megabyte, a lock that was lost gives the 128 KiB that
were on their way. (All measured with VirtualBox 7.2.22.) What it gives is also what VirtualBox
reads there, and is compared with what we read.
"""

import os
import select
import threading
import time
from typing import Final, Self

from shared.export.command import PipedCommand
from shared.host.errors import CopyError
from shared.host.stages import CancelledError
from shared.ova.disk import Block, Chain
from shared.virtualbox.export_errors import UnreachedError
from shared.virtualbox.vboxmanage import VBoxManage

#: What is read at the end to prove that the lock lasted. A smaller disk would fit into the pipe:
#: there is no proof for it.
PROOF_BYTES: Final = 2**20
SMALLEST_DISK: Final = 2 * PROOF_BYTES

_START_SECONDS: Final = 120.0
_PROOF_SECONDS: Final = 120.0
_PIECE: Final = 2**16
_POLL_SECONDS: Final = 0.2
#: What is compared of a block by which VirtualBox shows which image it has in mind.
_WITNESS_BYTES: Final = 2**16


class ReadLock:
    """VirtualBox's read lock of one disk.

    Held from `take` to the end of the `with` statement, or of this process.
    """

    def __init__(self, vboxmanage: VBoxManage, medium: str, cancelled: threading.Event) -> None:
        self._vboxmanage = vboxmanage
        self._medium = medium
        self._cancelled = cancelled
        self._child = PipedCommand(vboxmanage, ["mediumio", f"--disk={medium}", "cat"])
        self._received = b""

    @classmethod
    def take(
        cls,
        vboxmanage: VBoxManage,
        medium: str,
        cancelled: threading.Event,
        *,
        start_seconds: float = _START_SECONDS,
    ) -> Self:
        """Locks the disk image `medium` (UUID or path of the leaf).

        A VBoxSVC that is just ending is waited for. Raises `ExportError` (`VmRunsError`, …) if
        VirtualBox refuses, or does not answer within `start_seconds`; `CancelledError` soon after
        `cancelled` is set.
        """
        try:
            return cls._take(vboxmanage, medium, cancelled, start_seconds)
        except UnreachedError:
            vboxmanage.reach()
            return cls._take(vboxmanage, medium, cancelled, start_seconds)

    @classmethod
    def _take(
        cls, vboxmanage: VBoxManage, medium: str, cancelled: threading.Event, start_seconds: float
    ) -> Self:
        lock = cls(vboxmanage, medium, cancelled)
        try:
            lock._read_up_to(1, start_seconds)
            if lock._received:
                return lock
            lock._child.wait(_POLL_SECONDS)
            raise lock._child.problem(
                f"VirtualBox does not lock the disk {medium} for reading within "
                f"{start_seconds:.0f} seconds"
            )
        except BaseException:
            lock._child.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()

    def check(self) -> None:
        """Raises `CopyError` if the lock was lost for certain.

        Nothing raised proves nothing: see `prove`.
        """
        if self._child.status() is not None:
            raise self._lost()

    def prove(self, chain: Chain) -> None:
        """Raises `CopyError` unless the lock lasted until now. To be called once only.

        Also if VirtualBox reads other bytes from the disk than `chain`: at its beginning, and of
        each parent that is not what its child notes.
        """
        for block in chain.witnesses():
            self._ask(block)
        self._read_up_to(PROOF_BYTES, _PROOF_SECONDS)
        if len(self._received) < PROOF_BYTES:
            raise self._lost()
        if self._received != chain.beginning(PROOF_BYTES):
            raise self._other_bytes()

    def _ask(self, block: Block) -> None:
        """Raises `CopyError` unless VirtualBox reads the same from the beginning of a block."""
        length = min(_WITNESS_BYTES, block.length)
        place = [f"--offset={block.position}", f"--size={length}"]
        words = ["mediumio", f"--disk={self._medium}", "cat", *place]
        with PipedCommand(self._vboxmanage, words) as command:
            said = _read(command.output, length, _PROOF_SECONDS, self._cancelled)
            if len(said) < length:
                command.wait(_POLL_SECONDS)
                raise command.problem(f"VirtualBox does not read the disk {self._medium}")
        if said != block.read_part(0, length):
            raise self._other_bytes()

    def _other_bytes(self) -> CopyError:
        return CopyError(
            f"VirtualBox reads other bytes from the disk {self._medium} than this program"
        )

    def _lost(self) -> CopyError:
        reason = self._child.problem("VBoxSVC or VBoxManage has ended")
        return CopyError(
            f"the read lock of the disk {self._medium} was lost while it was read: {reason.message}"
        )

    def _read_up_to(self, length: int, seconds: float) -> None:
        """Reads on until `length` bytes have been received, as `_read` does."""
        more = length - len(self._received)
        self._received += _read(self._child.output, more, seconds, self._cancelled)


def _read(descriptor: int, length: int, seconds: float, cancelled: threading.Event) -> bytes:
    """So many bytes; fewer if the command ends, or gives nothing more in time.

    Raises `CancelledError`.
    """
    received, deadline = b"", time.monotonic() + seconds
    while len(received) < length and time.monotonic() < deadline:
        if cancelled.is_set():
            raise CancelledError
        if not _readable(descriptor, _POLL_SECONDS):
            continue
        piece = os.read(descriptor, min(_PIECE, length - len(received)))
        if not piece:
            break
        received += piece
    return received


def _readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read, or an end, within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
