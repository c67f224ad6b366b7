"""Reading ext2-4, NTFS, FAT and exFAT with the Sleuth Kit. Runs in the child process alone.

The library is C and reads what a guest wrote: it may fail, crash or never return. Whoever needs an
answer all the same has the child do it (`coordinator.guest.reader_process`). Deleted files, and
those that the file system keeps for itself, are not there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pytsk3

from coordinator.guest.file_data import FileData, pieces, words
from coordinator.guest.signatures import ContentKind
from shared.host.errors import CopyError, NotInCopyError

_MOST_ENTRIES: Final = 1_000_000
#: So many bytes may be read for each byte of the disk: compressed files are larger than their room.
_MOST_READ: Final = 64
_OWN_FILES_OF_NTFS: Final = 16
_KINDS: Final = {
    ContentKind.EXT2: pytsk3.TSK_FS_TYPE_EXT_DETECT,
    ContentKind.EXT3: pytsk3.TSK_FS_TYPE_EXT_DETECT,
    ContentKind.EXT4: pytsk3.TSK_FS_TYPE_EXT_DETECT,
    ContentKind.NTFS: pytsk3.TSK_FS_TYPE_NTFS,
    ContentKind.FAT: pytsk3.TSK_FS_TYPE_FAT_DETECT,
    ContentKind.EXFAT: pytsk3.TSK_FS_TYPE_EXFAT,
}
_TYPES: Final = {
    pytsk3.TSK_FS_META_TYPE_REG: "file",
    pytsk3.TSK_FS_META_TYPE_DIR: "directory",
    pytsk3.TSK_FS_META_TYPE_LNK: "link",
    pytsk3.TSK_FS_META_TYPE_FIFO: "pipe",
    pytsk3.TSK_FS_META_TYPE_CHR: "device",
    pytsk3.TSK_FS_META_TYPE_BLK: "device",
    pytsk3.TSK_FS_META_TYPE_SOCK: "socket",
}
_VIRTUAL: Final = (pytsk3.TSK_FS_META_TYPE_VIRT, pytsk3.TSK_FS_META_TYPE_VIRT_DIR)


class Readable(Protocol):
    """A disk."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """The bytes. Raises `VmBackupError` or `OSError` if they cannot be read."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One name in a directory. Names are as the guest wrote them, in bytes.

    `address` is the number of its inode or record; `problem` says why it cannot be read. `modified`
    is when its contents were, `changed` when anything of it was, `owner` user and group.
    """

    name: bytes
    address: int
    type: str
    size: int = 0
    mode: int = 0
    modified: int = 0
    target: bytes = b""
    problem: str = ""
    changed: int = 0
    owner: tuple[int, int] = (0, 0)


class _Image(pytsk3.Img_Info):  # type: ignore[misc]
    """A partition for the library; remembers what could not be read, whatever that makes of it."""

    def __init__(self, disk: Readable, start: int, size: int) -> None:
        self._disk, self._start, self._size = disk, start, size
        self.problem = ""
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def read(self, offset: int, size: int) -> bytes:
        """Called by the library."""
        length = max(0, min(size, self._size - offset))
        try:
            return self._disk.read(self._start + offset, length) if length else b""
        except Exception as error:
            self.problem = self.problem or f"the copy cannot be read there: {error}"
            raise

    def get_size(self) -> int:
        """Called by the library."""
        return self._size


class GuestFileSystem:
    """A file system of a guest. Raises `CopyError` if the library does not understand it."""

    def __init__(self, disk: Readable, start: int, size: int, kind: ContentKind) -> None:
        self.kind = kind
        self._image = _Image(disk, start, size)
        self._left = disk.size * _MOST_READ
        try:
            self._system = pytsk3.FS_Info(self._image, offset=0, type=_KINDS[kind])
        except (OSError, RuntimeError) as error:
            raise CopyError(self._image.problem or words(error)) from None
        self.root = FileEntry(b"", self._system.info.root_inum, "directory", mode=0o755)

    def entries(self, directory: FileEntry) -> Iterator[FileEntry]:
        """What is in a directory.

        Raises `CopyError` at the end if not all of it could be read.
        """
        count, seen = 0, set()
        try:
            for found in self._system.open_dir(inode=directory.address):
                count += 1
                if count > _MOST_ENTRIES:
                    raise CopyError(f"there are more than {_MOST_ENTRIES} names in it")
                entry = self._entry(found)
                if entry is not None and entry.name not in seen:
                    seen.add(entry.name)
                    yield entry
        except (OSError, RuntimeError) as error:
            raise CopyError(self._problem() or words(error)) from None
        if problem := self._problem():
            raise CopyError(problem)

    def find(self, names: list[bytes]) -> FileEntry:
        """What lies at a path; on NTFS and FAT in any case. Follows no link.

        Raises `NotInCopyError` if there is no such thing, `CopyError` if that cannot be told.
        """
        entry = self.root
        for depth, name in enumerate(names):
            if entry.type == "link":
                raise CopyError(f"{_shown(names[:depth])} is a link to {_text(entry.target)}")
            if entry.type != "directory":
                raise NotInCopyError(f"{_shown(names[:depth])} is no directory")
            entry = self._child(entry, name)
        return entry

    def open(self, entry: FileEntry) -> FileData:
        """A file for reading. Raises `CopyError`."""
        try:
            file = self._system.open_meta(inode=entry.address)
        except (OSError, RuntimeError) as error:
            raise CopyError(self._problem() or words(error)) from None
        width = self._system.info.block_size
        return FileData(file, entry.size, self.kind, width, self._spend, self._problem)

    def data(self, entry: FileEntry) -> Iterator[tuple[int, bytes]]:
        """What is in a file, by position; what is missing is zeros, as the guest sees them.

        Raises `CopyError` where it cannot be read, and for a file that is kept in another way.
        """
        return pieces(self.open(entry))

    def _spend(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise CopyError("its files are larger than its disk can hold")

    def _child(self, directory: FileEntry, name: bytes) -> FileEntry:
        alike, problem = None, ""
        try:
            for entry in self.entries(directory):
                if entry.name == name:
                    return entry
                if _folded(entry.name) == _folded(name):
                    alike = entry
        except CopyError as error:
            problem = error.message
        if alike is not None and self.kind in (
            ContentKind.NTFS,
            ContentKind.FAT,
            ContentKind.EXFAT,
        ):
            return alike
        if problem:
            raise CopyError(problem)
        raise NotInCopyError(f"there is no {_text(name)}")

    def _entry(self, found: Any) -> FileEntry | None:  # noqa: ANN401 - an object of the library
        name, meta = found.info.name, found.info.meta
        if name is None or name.name in (b".", b"..", None):
            return None
        if not int(name.flags) & int(pytsk3.TSK_FS_NAME_FLAG_ALLOC):
            return None
        if meta is None:
            return FileEntry(name.name, 0, "other", problem="what its name leads to is damaged")
        if meta.type in _VIRTUAL:
            return None
        if self.kind is ContentKind.NTFS and meta.addr < _OWN_FILES_OF_NTFS:
            return None
        kind = _TYPES.get(meta.type, "other")
        return FileEntry(
            name.name,
            meta.addr,
            kind,
            meta.size if kind == "file" else 0,
            int(meta.mode) & 0o7777,
            meta.mtime,
            meta.link or b"" if kind == "link" else b"",
            changed=meta.ctime,
            owner=(int(meta.uid), int(meta.gid)),
        )

    def _problem(self) -> str:
        """What could not be read since the last question."""
        problem, self._image.problem = self._image.problem, ""
        return problem


def _folded(name: bytes) -> str:
    return _text(name).casefold()


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _shown(names: list[bytes]) -> str:
    return "/" + "/".join(map(_text, names))
