"""The copies' door to the NAS.

Every change of a copy, its directory or its side files goes through `NasFiles`.

Each public method of `NasFiles` is one operation on the file tree, so a test that wraps the class
meets every place where a crash can leave something half done. Looking is done by
`shared.nas.reading`; nothing here follows a symbolic link in the last part of a path: what others
may have planted in the NAS directories is reported, never entered.
"""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.copies.names import parse_final
from shared.host.errors import NasError
from shared.nas import writing
from shared.nas.nas_errors import NO_RIGHTS, NOT_SUPPORTED
from shared.nas.reading import open_file, opened, plain, same_directory


@dataclass(frozen=True, slots=True)
class Modes:
    """The rights of what is created.

    Directories keep the group of their parent where that is set (setgid).
    """

    file: int = 0o640
    directory: int = 0o750


#: Copies can be read by the group; only this user changes them.
PRIVATE: Final = Modes()
#: Every member of the group may add, move and remove copies: for hosts whose workers run as
#: different users.
SHARED_GROUP: Final = Modes(file=0o660, directory=0o2770)


def modes_for(*, shared_group: bool) -> Modes:
    """The rights that the configuration asks for."""
    return SHARED_GROUP if shared_group else PRIVATE


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to remove the files `names` of one published copy, in `directory`.

    Only `shared.copies.permits` gives it, after it has looked (a test sees to that). Whoever
    removes such a file has to show it, so that nothing that is added to this program can remove a
    copy without the proof. `reason` is what was proved, in words. Not to be kept: it is true when
    it is given.
    """

    directory: Path
    stamp: str
    names: frozenset[str]
    reason: str


class NasFiles:
    """Change the copies on the NAS, one operation a call. All raise OSError.

    `name` is one plain file name; anything else raises ValueError.
    """

    def __init__(self, modes: Modes = PRIVATE) -> None:
        self.modes = modes

    def make_directory(self, directory: Path) -> None:
        """Makes a directory with the configured rights.

        One that is there already is left as it is; a link is refused.
        """
        try:
            writing.make_directory(directory, self.modes.directory)
        except FileExistsError:
            with opened(directory):  # ENOTDIR or ELOOP if it is something else
                return
        writing.sync_directory(directory.parent)

    def remove_directory(self, directory: Path) -> None:
        """Removes a directory that is empty; one that is not, or is gone, stays as it is."""
        with (
            contextlib.suppress(FileNotFoundError),
            opened(directory.parent, follow=True) as parent,
        ):
            try:
                os.rmdir(directory.name, dir_fd=parent)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def create(self, directory: Path, name: str) -> int:
        """Create a file that must not exist; returns a descriptor for reading and writing."""
        with opened(directory) as parent:
            return writing.create_file(plain(name), self.modes.file, parent)

    def write(self, descriptor: int, data: bytes) -> None:
        """Appends all of `data` to a file that `create` made."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Brings a created file's bytes to the server's disk."""
        os.fsync(descriptor)

    def sync_file(self, directory: Path, name: str) -> None:
        """Brings a file that another process wrote to the server's disk.

        Opened for writing: SMB refuses to flush otherwise.
        """
        with opened(directory) as parent:
            writing.open_synced(plain(name), parent).close()

    def sync_directory(self, directory: Path) -> None:
        """Brings a directory's names to the server's disk, where the file system can do that."""
        writing.sync_directory(directory, follow=False)

    def rename(self, directory: Path, source: str, target: str) -> None:
        """Renames within a directory, replacing `target`.

        The answer may be wrong on a NAS (a repeated request): look afterwards.
        """
        with opened(directory) as parent:
            os.rename(plain(source), plain(target), src_dir_fd=parent, dst_dir_fd=parent)
            _sync_name(parent, target)

    def move(self, source: Path, target: Path, name: str) -> None:
        """Renames a file into another directory.

        Raises OSError with EXDEV if that is on another file system.
        """
        with opened(source) as old, opened(target) as new:
            os.rename(plain(name), name, src_dir_fd=old, dst_dir_fd=new)
            _sync_name(new, name)

    def link(self, source: Path, target: Path, name: str) -> None:
        """Gives a file a second name, the same, in another directory.

        Raises OSError where the file system or server has no such names.
        """
        with opened(source) as old, opened(target) as new:
            os.link(plain(name), name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)

    def remove(self, directory: Path, name: str) -> None:
        """Removes a file or a link (not what it points to). One that is gone already is no error.

        Raises ValueError for the published files of a copy: see `remove_published`.
        """
        if parse_final(name):
            raise ValueError(f"{name} belongs to a published copy: it takes a permit to remove it")
        _unlink(directory, name)

    def remove_published(self, permit: Permit, name: str) -> None:
        """Removes a file of a published copy that `permit` names.

        One that is gone already is no error.

        The only way to do so: a permit is proof that the copy is not needed, or that it is whole
        elsewhere (`shared.copies.permits`).
        """
        if name not in permit.names:
            raise ValueError(f"this permit is not for {name}: {permit.reason}")
        _unlink(permit.directory, name)

    def set_times(self, directory: Path, name: str, modified: int) -> None:
        """Gives a file the time, in nanoseconds, at which it was written first.

        For one that was copied here.
        """
        with opened(directory) as parent:
            os.utime(plain(name), ns=(modified, modified), dir_fd=parent, follow_symlinks=False)

    def set_mode(self, directory: Path, name: str) -> None:
        """Give a file that another process made the configured rights.

        Where its owner or the file system refuses that, it keeps those that it has.
        """
        with open_file(directory / plain(name), follow=False) as file:
            writing.set_mode(file.fileno(), self.modes.file)


def write_file(files: NasFiles, directory: Path, name: str, data: bytes) -> None:
    """Creates `name`, which must not exist, and brings it to the disk.

    After a crash it may be there, torn. Raises OSError.
    """
    descriptor = files.create(directory, name)
    try:
        files.write(descriptor, data)
        files.sync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(directory: Path, name: str) -> None:
    with contextlib.suppress(FileNotFoundError), opened(directory) as parent:
        os.unlink(plain(name), dir_fd=parent)


def _sync_name(directory: int, name: str) -> None:
    """Bring a new name to the server's disk, where the file system can do that.

    A file of another user that cannot be opened is passed over: the rename itself stands.
    """
    try:
        writing.open_synced(name, directory, foreign=True).close()
    except OSError as error:
        if error.errno not in NO_RIGHTS | NOT_SUPPORTED:
            raise


def refuse_one_directory(source: Path, target: Path) -> None:
    """Raises `NasError` if both are the same directory under two names.

    What is at the one is not safe at the other. Raises OSError.
    """
    if same_directory(source, target):
        raise NasError(
            f"{source} and {target} are the same directory",
            hint="nas.archive_directory must be another place than the NAS directory",
        )
