"""Writes an OVA: a tar file of the description, the disks and a manifest with the SHA-256 of each.

Bytes are hashed and written in threads of their own. The size of a disk is known only at its end:
its tar header is written last, into the gap that was left for it.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.rate_limit import UNLIMITED, Pace
from shared.host.stages import Stage
from shared.ova import tar
from shared.ova.manifest import render_manifest
from shared.ova.output_file import END_SECONDS, LONGEST_RANGE, CopiedRange, OutputFile, fdatasync

#: Pieces of about a megabyte that may wait to be hashed.
_QUEUE: Final = 12


@dataclass(frozen=True, slots=True)
class WrittenMember:
    """One file of an OVA that was written: its bytes are at `position` of the OVA.

    `sha256` is empty if some of them were taken over without being read.
    """

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
        pace: Pace = UNLIMITED,
    ) -> None:
        """Creates `path`, which must not exist.

        `modified` is the time that the members get, in seconds since the epoch; `flush` brings an
        open file to the storage; threads are waited for `end_seconds` at the end. What is written
        (and not copied by the storage) goes no faster than `pace`.
        """
        self._file = OutputFile(
            path, cancelled=cancelled, flush=flush, end_seconds=end_seconds, pace=pace
        )
        self._modified = modified
        self._end_seconds = end_seconds
        self._range: CopiedRange | None = None
        self._hashing: Stage[bytes | memoryview] = Stage(
            name="hash", handle=self._hash, capacity=_QUEUE, cancelled=cancelled
        )
        self._digest = hashlib.sha256()
        self._frame = hashlib.sha256()
        self._all_known = True
        self._name = ""
        self._begin = 0
        self._members: list[WrittenMember] = []
        #: Where the next byte goes.
        self.position = 0
        #: The ranges (position, length) that were copied from another file.
        self.ranges: list[tuple[int, int]] = []

    @property
    def stored(self) -> int:
        """How many bytes the storage has taken."""
        return self._file.stored

    @property
    def copied(self) -> int:
        """How many of them it copied by itself from another file."""
        return self._file.copied

    @property
    def frame(self) -> str:
        """The SHA-256 of what belongs to no member, one after the other; after `finish`."""
        return self._frame.hexdigest()

    def add(self, name: str, data: bytes) -> WrittenMember:
        """Writes a whole member."""
        self.begin(name)
        self.write(data)
        return self.end()

    def begin(self, name: str) -> None:
        """Starts a member, leaves room for its header."""
        self._name = name
        self._digest, self._all_known = hashlib.sha256(), True
        self.position += tar.BLOCK
        self._begin = self.position

    def write(self, data: bytes | memoryview) -> None:
        """Appends to the member."""
        self._add_to_digest(data)
        self._put_raw(data)

    def copy(self, data: bytes | memoryview, source: int, source_position: int) -> None:
        """Appends `data` by having the file system copy it from another file.

        The open file `source` holds it at `source_position`, and must stay open until this writer
        is closed. Neighbouring ranges are copied together.
        """
        self._add_to_digest(data)
        self._append_range(source, source_position, len(data))

    def take(self, length: int, source: int, source_position: int) -> None:
        """The same for bytes that nobody has read: the member has no digest then."""
        self._all_known = False
        self._append_range(source, source_position, length)

    def _append_range(self, source: int, source_position: int, length: int) -> None:
        last = self._range
        if (
            last
            and last.source_position + last.length == source_position
            and last.length < LONGEST_RANGE
        ):
            self._range = last._replace(length=last.length + length)
        else:
            self._put_range()
            self._range = CopiedRange(source, source_position, self.position, length)
        self.position += length

    def end(self) -> WrittenMember:
        """Ends the member: waits for its hash, writes its header."""
        self._hashing.finish()
        sha256 = self._digest.hexdigest() if self._all_known else ""
        member = WrittenMember(self._name, self._begin, self.position - self._begin, sha256)
        header = tar.member_header(member.name, member.size, self._modified)
        self._put_range()
        self._file.write(header, member.position - tar.BLOCK)
        padding = tar.padding(member.size)
        self._put_raw(padding)
        self._frame.update(header + padding)
        self._members.append(member)
        return member

    def finish(self, manifest_name: str) -> tuple[WrittenMember, ...]:
        """Writes the manifest and the end, and waits until the storage has everything.

        Returns all members in their order.
        """
        manifest = render_manifest(
            (member.name, member.size, member.sha256) for member in self._members
        )
        self.add(manifest_name, manifest)
        self._put_raw(tar.END)
        self._frame.update(tar.END)
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
            self.ranges.append((self._range.position, self._range.length))
            self._range = None

    def _add_to_digest(self, data: bytes | memoryview) -> None:
        if self._all_known:
            self._hashing.put(data)

    def _hash(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
