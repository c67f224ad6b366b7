"""Writes an OVA: a tar file of the description, the disks and a manifest with the SHA-256 of each.

Bytes are hashed and written in threads of their own. The size of a disk is known only at its end:
its tar header is written last, into the gap that was left for it.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.host.stages import Stage
from shared.ova import tar
from shared.ova.manifest import render_manifest
from shared.ova.output_file import END_SECONDS, LONGEST_RANGE, CopiedRange, OutputFile, fdatasync

#: Pieces of about a megabyte that may wait to be hashed.
_QUEUE: Final = 12


@dataclass(frozen=True, slots=True)
class WrittenMember:
    """One file of an OVA that was written: its bytes are at `position` of the OVA."""

    name: str
    position: int
    size: int
    sha256: str


class OvaWriter:
    """An OVA that is being written to a new file.

    Members one after the other: `add`, or `begin`, `write`…, `end`; then `finish`.

    All methods raise `CancelledError` soon after `cancelled` is set, and `NasError` if writing
    fails; `CopyError` if what another file should hold cannot be copied from it, though it might be
    written. Whatever happens, call `close` (it keeps the file) or `discard` (it deletes it). A
    crash leaves an incomplete file.
    """

    def __init__(
        self,
        path: Path,
        *,
        modified: int,
        cancelled: threading.Event,
        flush: Callable[[int], None] = fdatasync,
        end_seconds: float = END_SECONDS,
    ) -> None:
        """Creates `path`, which must not exist.

        `modified` is the time that the members get, in seconds since the epoch; `flush` brings an
        open file to the storage; threads are waited for `end_seconds` at the end.
        """
        self._file = OutputFile(path, cancelled=cancelled, flush=flush, end_seconds=end_seconds)
        self._modified = modified
        self._end_seconds = end_seconds
        self._range: CopiedRange | None = None
        self._hashing: Stage[bytes | memoryview] = Stage(
            name="hash", handle=self._hash, capacity=_QUEUE, cancelled=cancelled
        )
        self._digest = hashlib.sha256()
        self._name = ""
        self._begin = 0
        self._members: list[WrittenMember] = []
        #: Where the next byte goes.
        self.position = 0

    @property
    def stored(self) -> int:
        """How many bytes the storage has taken."""
        return self._file.stored

    @property
    def copied(self) -> int:
        """How many of them it copied by itself from another file."""
        return self._file.copied

    def add(self, name: str, data: bytes) -> WrittenMember:
        """Writes a whole member."""
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
        """Appends `data` by having the file system copy it from another file.

        The open file `source` holds it at `source_position`, and must stay open until this writer
        is closed. Neighbouring ranges are copied together.
        """
        self._hashing.put(data)
        last = self._range
        if (
            last
            and last.source_position + last.length == source_position
            and last.length < LONGEST_RANGE
        ):
            self._range = replace(last, length=last.length + len(data))
        else:
            self._put_range()
            self._range = CopiedRange(source, source_position, self.position, len(data))
        self.position += len(data)

    def end(self) -> WrittenMember:
        """Ends the member: waits for its hash, writes its header."""
        self._hashing.finish()
        member = WrittenMember(
            self._name, self._begin, self.position - self._begin, self._digest.hexdigest()
        )
        header = tar.member_header(member.name, member.size, self._modified)
        self._put_range()
        self._file.write(header, member.position - tar.BLOCK)
        self._put_raw(tar.padding(member.size))
        self._members.append(member)
        return member

    def finish(self, manifest_name: str) -> tuple[WrittenMember, ...]:
        """Writes the manifest and the end, and waits until the storage has everything.

        Returns all members in their order.
        """
        manifest = render_manifest((member.name, member.sha256) for member in self._members)
        self.add(manifest_name, manifest)
        self._put_raw(tar.END)
        self._file.finish()
        return tuple(self._members)

    def close(self) -> bool:
        """Ends the threads and closes the file.

        False if the storage hangs: then the file stays open for the life of this process.
        """
        hashed = self._hashing.end(self._end_seconds)
        return self._file.close() and hashed

    def discard(self) -> None:
        """Closes the file and deletes it.

        A storage that hangs keeps it: whoever cleans up partial files removes it later.
        """
        self._hashing.end(self._end_seconds)
        self._file.discard()

    def _put_raw(self, data: bytes | memoryview) -> None:
        self._put_range()
        if data:
            self._file.write(data, self.position)
            self.position += len(data)

    def _put_range(self) -> None:
        if self._range:
            self._file.copy(self._range)
            self._range = None

    def _hash(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
