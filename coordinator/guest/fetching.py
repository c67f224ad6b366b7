"""Files of a guest, written into a directory of this host.

Names, modes, sizes and contents are the guest's, who may mean harm: nothing is written outside of
the destination, nothing that is there is overwritten, no link is made or followed, no device is
made. What is not whole has `.incomplete` in its name; its own name is kept by an empty file
meanwhile. A killed command leaves both.
"""

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from coordinator.guest.new_files import NewFile, alike, create_alike, too_many
from shared.host.errors import CopyError, UsageError
from shared.host.printable import printable

_LONGEST_NAME: Final = 200
_LATEST: Final = 2**33
#: What of a guest's mode is taken over: no others may write, nothing runs as somebody else.
_HARMLESS: Final = 0o755
_OF_WINDOWS: Final = ("NTFS", "FAT", "exFAT")
#: One of so many files that the destination can have is left to others: names cost a guest nothing.
_LEFT_TO_OTHERS: Final = 20
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(slots=True)
class Fetched:
    """What was fetched, to where, and what was not: paths in the guest, each with the reason."""

    place: Path
    files: int = 0
    directories: int = 0
    size: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)


def local_name(name: str) -> str:
    """The name of a guest's file on this host: printable, one component, not hidden by its length.

    `name` has bytes that are no UTF-8 as surrogates.
    """
    shown = printable(name.replace("/", "\\x2f"))
    if shown in ("", ".", ".."):
        shown = shown.replace(".", "\\x2e") or "no name"
    while len(os.fsencode(shown)) > _LONGEST_NAME:
        shown = shown[: _LONGEST_NAME // 2] + "~" + shown[-_LONGEST_NAME // 4 :]
        if len(os.fsencode(shown)) > _LONGEST_NAME:
            shown = shown.encode("ascii", "backslashreplace").decode()
    return shown


def destination(folder: Path, name: str) -> Path:
    """The place of what is fetched: `folder` is a directory, and has nothing of that name.

    Raises `UsageError`.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no directory", hint="--get needs one that is there: make it first"
        )
    place = folder / name
    if os.path.lexists(place):
        raise UsageError(
            f"{place} is there already, and nothing is overwritten",
            hint="fetch to another directory",
        )
    return place


class Fetching:
    """Takes what the child says (`begin`, `data`, `end`) and writes it below `folder`.

    `umask` is that of this process. Leave it as a context manager: it gives the directories their
    modes and times. Raises `CopyError` if the destination takes nothing more.
    """

    def __init__(self, folder: Path, name: str, *, kind: str, umask: int) -> None:
        self.result = Fetched(destination(folder, name))
        self._kind, self._umask = kind, umask
        self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._name = name
        #: The local paths of the guest's directories.
        self._directories: dict[tuple[str, ...], str] = {}
        self._settings: list[tuple[str, int, int]] = []
        self._file: NewFile | None = None
        self._path = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._file is not None:
                self._leave("it was interrupted")
            for path, mode, modified in reversed(self._settings):
                with contextlib.suppress(OSError):
                    os.utime(path, (modified, modified), dir_fd=self._root)
                    os.chmod(path, mode, dir_fd=self._root)
        finally:
            os.close(self._root)

    def take(self, message: Mapping[str, Any], data: bytes) -> None:
        """One message of the child. Raises `CopyError` if it makes no sense, or nothing fits."""
        kind = message.get("kind")
        try:
            if kind == "begin":
                self._begin(tuple(map(str, message["path"])), message)
            elif kind == "data" and self._file is not None:
                self._file.write(int(message["position"]), data)
            elif kind == "end":
                self._leave(str(message["problem"]))
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise CopyError(
                    f"{self.result.place} takes nothing more: {error.strerror}",
                    hint="what was fetched so far is there; fetch the rest to another place",
                ) from None
            self._note(self.result.problems, error.strerror or str(error))
            self._abandon()
        except (KeyError, ValueError, TypeError):
            raise CopyError("what reads the disk says what cannot be") from None

    def _begin(self, path: tuple[str, ...], what: Mapping[str, Any]) -> None:
        if self._file is not None:
            raise ValueError("one file at a time")
        self._path = "/".join(path) or "/"
        parent = self._directories.get(path[:-1]) if path else ""
        if parent is None:
            return  # the directory could not be made, which was said
        wanted = local_name(path[-1]) if path else self._name
        mode = self._mode(int(what["mode"]))
        modified = min(max(int(what["modified"]), 0), _LATEST)
        self._leave_some_to_others()
        if what["type_of_file"] == "directory":
            place = self._make(parent, wanted)
            self._directories[path] = place
            self._settings.append((place, 0o700 | mode, modified))
            self.result.directories += 1
        elif what["type_of_file"] == "file":
            place = self._reserve(parent, wanted)
            size = int(what["size"])
            self._file = NewFile(self._root, place, size, (mode & 0o755) | 0o600, modified)
        else:
            self._leave_out(what)

    def _leave_some_to_others(self) -> None:
        """Raises `CopyError` if the destination can have few more files."""
        room = os.fstatvfs(self._root)
        if room.f_files and room.f_favail < room.f_files // _LEFT_TO_OTHERS:
            raise CopyError(
                f"{self.result.place} takes nothing more: its file system has room for only "
                f"{room.f_favail} more files",
                hint="what was fetched so far is there; fetch the rest to another place",
            )

    def _leave_out(self, what: Mapping[str, Any]) -> None:
        if what["type_of_file"] == "link":
            self._note(self.result.left_out, f"a link to {what['target']}")
        elif not what["problem"]:
            self._note(self.result.left_out, f"no file ({what['type_of_file']})")

    def _leave(self, problem: str) -> None:
        if problem:
            self._note(self.result.problems, problem)
        file, self._file = self._file, None
        if file is None:
            return
        if problem:
            file.leave()
            return
        file.finish()
        self.result.files += 1
        self.result.size += file.size

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.leave()

    def _mode(self, guest: int) -> int:
        """A harmless mode. Those of Windows say nothing: only the owner may read such files."""
        return 0o600 if self._kind in _OF_WINDOWS else guest & _HARMLESS & ~self._umask

    def _make(self, parent: str, wanted: str) -> str:
        for name in alike(wanted):
            with contextlib.suppress(FileExistsError):
                place = f"{parent}/{name}" if parent else name
                os.mkdir(place, 0o700, dir_fd=self._root)
                self._told(name)
                return place
        raise too_many()

    def _reserve(self, parent: str, wanted: str) -> str:
        """Makes an empty file that nobody had, and answers its place."""
        descriptor, place = create_alike(self._root, parent, wanted)
        os.close(descriptor)
        self._told(place.rpartition("/")[2])
        return place

    def _told(self, name: str) -> None:
        if self._path != "/" and name != self._path.rpartition("/")[2]:
            self._note(self.result.renamed, name)

    def _note(self, where: dict[str, str], text: str) -> None:
        where[self._path] = text
