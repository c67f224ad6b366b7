"""Reads any part of the disks inside an `.ova` on the NAS, in any order, without unpacking it.

Copies of all versions of this program are read, and what `VBoxManage export` makes, with an index
and without. Where the copy has an index that is its own, each grain is compared with its digest
there; else each has the checksum of its zlib stream. Whatever a copy says, memory is bounded (some
megabytes a disk), and so is the time of each call.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from shared.host.errors import CopyError
from shared.nas.nas_errors import nas_error, reported
from shared.nas.reading import open_file, read_file
from shared.ova.block_errors import DamagedBlockError, UnreadBlockError
from shared.ova.index import GrainIndex, UnreadIndexError
from shared.ova.tar import TarMember, members
from shared.ova.vmdk_reader import DiskReader

__all__ = [
    "BrokenDisk",
    "CopyReader",
    "DamagedBlockError",
    "DiskReader",
    "UnreadBlockError",
    "open_copy",
]

#: Descriptions, settings and firmware variables are read whole, and are never longer.
MEMBER_LIMIT: Final = 64 * 2**20
_BESIDE: Final = ("vbox", "nvram")


class BrokenDisk(DiskReader):
    """A disk of which nothing can be read, beside others that can: it has no bytes."""

    def __init__(self, name: str, problem: str) -> None:
        # of a reader that reads nothing there is nothing to set up
        self.name, self.problem = name, problem
        self.size, self.section, self.indexed = 0, None, False

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002 - as of any disk
        """Raises `DamagedBlockError`."""
        raise DamagedBlockError(self.problem)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Raises `DamagedBlockError`."""
        raise DamagedBlockError(self.problem)


class CopyReader:
    """A copy that is open for reading: its disks in the order of the `.ova`. Close it.

    A disk that is none has a `problem`, and keeps its number: the others are read all the same.

    `index_problem` says why its index is not used; empty if it is. Then reading finds every block
    that is not what was written; else all but those that were replaced by others, or that were
    lost from the tables.
    """

    def __init__(self, path: Path) -> None:
        """Raises like `open_copy`."""
        self.path = path
        self.index_problem = ""
        self._closing = ExitStack()
        try:
            with reported(f"read {path.name}"):
                self._file = self._closing.enter_context(open_file(path))
                self._members = {each.name: each for each in members(self._file.fileno())}
            #: That of the copy, if it is its own.
            self.index = self._open_index()
            self.disks = tuple(
                self._open_disk(member)
                for member in self._members.values()
                if member.name.lower().endswith(".vmdk")
            )
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files. May be called again."""
        self._closing.close()

    @property
    def descriptor(self) -> int:
        """That of the open `.ova`, for other programs to read from."""
        return self._file.fileno()

    @property
    def names(self) -> tuple[str, ...]:
        """The members of the `.ova`, in order, as it has them: they may hold anything."""
        return tuple(self._members)

    def member(self, name: str) -> bytes:
        """A small file of the copy, whole: a member of the `.ova` by its name, or `vbox`, `nvram`.

        Those two are the side files, which need not be there.

        Raises `CopyError` if there is none or it has more than `MEMBER_LIMIT` bytes, `NasError`.
        """
        if name in _BESIDE and name not in self._members:
            return self._beside(name)
        if name not in self._members:
            raise CopyError(f"{self.path.name} has no {name!r}")
        found = self._members[name]
        if found.size > MEMBER_LIMIT:
            raise CopyError(f"{name!r} is impossibly long ({found.size} bytes)")
        with reported(f"read {self.path.name}"):
            data = os.pread(self._file.fileno(), found.size, found.position)
        if len(data) != found.size:
            raise CopyError(f"{name!r} is cut off")
        return data

    def _beside(self, suffix: str) -> bytes:
        path = self.path.with_suffix(f".{suffix}")
        try:
            data = read_file(path, MEMBER_LIMIT)
        except FileNotFoundError:
            raise CopyError(f"the copy has no {path.name}") from None
        except OSError as error:
            raise nas_error(error, f"read {path.name}") from error
        if len(data) > MEMBER_LIMIT:
            raise CopyError(f"{path.name} is impossibly long")
        return data

    def _open_disk(self, member: TarMember) -> DiskReader:
        try:
            return DiskReader(self._file, member, self.index)
        except CopyError as error:
            return BrokenDisk(member.name, error.message)

    def _open_index(self) -> GrainIndex | None:
        """The index of this copy; None if there is none, it is damaged, or another's.

        Raises `NasError` if it cannot be read: a copy is not another one because of that.
        """
        try:
            index = GrainIndex.open(self.path.with_suffix(".index"))
            self._closing.callback(index.close)
            self.index_problem = self._unfit(index)
        except UnreadIndexError as error:
            raise nas_error(error.error, f"read the index of {self.path.name}") from None
        except CopyError as error:
            self.index_problem = error.message
        return None if self.index_problem else index

    def _unfit(self, index: GrainIndex) -> str:
        header, descriptor = index.header, self._file.fileno()
        try:
            manifest = os.pread(descriptor, header.manifest_bytes, header.manifest_position)
            length = os.fstat(descriptor).st_size
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise UnreadIndexError(error) from None
            return f"the index does not fit the copy: {error}"
        if (length, hashlib.sha256(manifest).hexdigest()) != (
            header.ova_bytes,
            header.manifest_sha256,
        ):
            return "the index belongs to another copy"
        return ""


def open_copy(path: Path) -> CopyReader:
    """Opens the `.ova` at `path` for reading, with its index if that is beside it and its own.

    Raises `CopyError` if it is no `.ova`, `NasError` if it cannot be read.
    """
    return CopyReader(path)
