"""Writes an OVA: a tar file of the description, the disks and a manifest with the SHA-256 of each.

Bytes are hashed and written in threads of their own and are flushed to the storage while more are
made, so that the end does not wait long and memory does not fill with pages that wait for a NAS.
The size of a disk is known only at its end: its tar header is written last, into the gap that was
left for it.
"""

import contextlib
import errno
import hashlib
import os
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.host.errors import CopyError, NasError
from shared.host.stages import Stage
from shared.ova import tar

#: Pieces of about a megabyte that may wait to be hashed, and to be written.
_QUEUE: Final = 12
#: A range that is copied takes the NAS about 0.1 s at this length, and cannot be cancelled.
_LONGEST_RANGE: Final = 64 * 2**20
#: What file systems that share blocks between files share at least.
_BLOCK: Final = 4096
_FLUSH_BYTES: Final = 64 * 2**20
#: How long threads may take to end. One that writes to a NAS that is gone cannot be ended at all.
_END_SECONDS: Final = 10.0

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_flush = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


@dataclass(frozen=True, slots=True)
class WrittenMember:
    """One file of an OVA: its bytes are at `position` of the OVA."""

    name: str
    position: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Write:
    data: bytes | memoryview
    position: int


@dataclass(frozen=True, slots=True)
class _CopyRange:
    """Bytes that another file holds already.

    The file system, perhaps the server alone, copies them.
    """

    source: int
    source_position: int
    position: int
    length: int


class OvaWriter:
    """An OVA that is being written to a new file.

    Members one after the other: `add`, or `begin`, `write`…, `end`; then `finish`.

    All methods raise `CancelledError` soon after `cancelled` is set, and `NasError` if writing
    fails; `CopyError` if what another file should hold cannot be copied from it, though it might be
    written. Whatever happens, call `close` (it keeps the file) or `discard` (it deletes it). A
    crash leaves an incomplete file.
    """

    def __init__(self, path: Path, *, modified: int, cancelled: threading.Event) -> None:
        """Creates `path`, which must not exist.

        `modified` is the time that the members get, in seconds since the epoch.
        """
        self._path = path
        self._modified = modified
        try:
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self._failed(error) from None
        self._range: _CopyRange | None = None
        self._hashing: Stage[bytes | memoryview] = Stage(
            name="hash", handle=self._hash, capacity=_QUEUE, cancelled=cancelled
        )
        self._flushing: Stage[None] = Stage(
            name="flush", handle=self._sync, capacity=1, cancelled=cancelled
        )
        self._writing: Stage[_Write | _CopyRange] = Stage(
            name="write", handle=self._store, capacity=_QUEUE, cancelled=cancelled
        )
        self._digest = hashlib.sha256()
        self._name = ""
        self._begin = 0
        self._unflushed = 0
        self._members: list[WrittenMember] = []
        #: Where the next byte goes.
        self.position = 0
        #: How many bytes the storage has taken, and how many of them it copied by itself from
        #: another file.
        self.stored = 0
        self.copied = 0

    def add(self, name: str, data: bytes) -> WrittenMember:
        """A whole member."""
        self.begin(name)
        self.write(data)
        return self.end()

    def begin(self, name: str) -> None:
        """Starts a member, leaves room for its header."""
        self._name = name
        self._digest = hashlib.sha256()
        self.position += tar.BLOCK
        self._begin = self.position

    def write(self, data: bytes | memoryview) -> None:
        """Appends to the member."""
        self._hashing.put(data)
        self._put_raw(data)

    def copy(self, data: bytes | memoryview, source: int, source_position: int) -> None:
        """Appends `data`, which the open file `source` holds at `source_position`, and lets the file system copy it from there.

        Neighbouring ranges are copied together. The same `source` must stay open until the archive
        is closed.
        """
        self._hashing.put(data)
        last = self._range
        if (
            last
            and last.source_position + last.length == source_position
            and last.length < _LONGEST_RANGE
        ):
            self._range = replace(last, length=last.length + len(data))
        else:
            self._put_range()
            self._range = _CopyRange(source, source_position, self.position, len(data))
        self.position += len(data)

    def end(self) -> WrittenMember:
        """Ends the member: waits for its hash, writes its header."""
        self._hashing.finish()
        member = WrittenMember(
            self._name, self._begin, self.position - self._begin, self._digest.hexdigest()
        )
        header = tar.member_header(member.name, member.size, self._modified)
        self._put_range()
        self._writing.put(_Write(header, member.position - tar.BLOCK))
        self._put_raw(tar.padding(member.size))
        self._members.append(member)
        return member

    def finish(self, manifest_name: str) -> tuple[WrittenMember, ...]:
        """Writes the manifest and the end, and waits until the storage has everything.

        Returns all members in their order.
        """
        manifest = "".join(
            f"SHA256 ({member.name}) = {member.sha256}\n" for member in self._members
        )
        self.add(manifest_name, manifest.encode())
        self._put_raw(tar.END)
        self._writing.finish()
        self._flushing.put(None)
        self._flushing.finish()
        return tuple(self._members)

    def close(self) -> bool:
        """Ends the threads and closes the file.

        False if the storage hangs: then the file stays open for the life of this process.
        """
        ended = [
            stage.end(_END_SECONDS) for stage in (self._hashing, self._writing, self._flushing)
        ]
        if not all(ended):
            # its number must not be given to another file while a thread may still write to it
            return False
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        return True

    def discard(self) -> None:
        """Closes the file and deletes it.

        A storage that hangs keeps it: whoever cleans up partial files removes it later.
        """
        with contextlib.suppress(OSError):
            if self.close():
                os.unlink(self._path)

    def _put_raw(self, data: bytes | memoryview) -> None:
        self._put_range()
        if data:
            self._writing.put(_Write(data, self.position))
            self.position += len(data)

    def _put_range(self) -> None:
        if self._range:
            self._writing.put(self._range)
            self._range = None

    def _hash(self, data: bytes | memoryview) -> None:
        self._digest.update(data)

    def _store(self, item: _Write | _CopyRange) -> None:
        try:
            length = self._write_at(item) if isinstance(item, _Write) else self._copy_range(item)
        except OSError as error:
            if isinstance(item, _CopyRange) and error.errno not in _NO_ROOM:
                raise CopyError(
                    f"the NAS does not copy from the copy before: {error.strerror or error}"
                ) from error
            raise self._failed(error) from error
        self.stored += length
        self._unflushed += length
        if self._unflushed >= _FLUSH_BYTES:
            self._unflushed = 0
            self._flushing.put(None)

    def _write_at(self, item: _Write) -> int:
        view, position = memoryview(item.data), item.position
        while view:
            count = os.pwrite(self._descriptor, view, position)
            view, position = view[count:], position + count
        return len(item.data)

    def _copy_range(self, item: _CopyRange) -> int:
        done = 0
        while done < item.length:
            source, target = item.source_position + done, item.position + done
            length = min(item.length - done, _to_next_block(source, target))
            count = _copy_file_range(item.source, self._descriptor, length, source, target)
            if not count:
                raise OSError(None, "the previous copy has become shorter")
            done += count
        self.copied += item.length
        return item.length

    def _sync(self, _: None) -> None:
        try:
            _flush(self._descriptor)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> NasError:
        return NasError(f"cannot write {self._path}: {error.strerror or error}")


def _copy_file_range(
    source: int, target: int, length: int, source_position: int, target_position: int
) -> int:
    """Copies on the server; answers how many bytes.

    Only Linux has it, and only there a copy is planned so (`shared.nas.mount`).
    """
    if sys.platform == "linux":
        return os.copy_file_range(source, target, length, source_position, target_position)
    raise OSError(errno.ENOSYS, "this system cannot copy between files")


def _to_next_block(source: int, target: int) -> int:
    """How much to copy at once.

    A file system shares blocks only if a copy begins at one, so what is before goes by itself.
    """
    before = -target % _BLOCK
    return before if before and source % _BLOCK == target % _BLOCK else _LONGEST_RANGE
