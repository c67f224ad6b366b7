"""Reflink clones: a second file with the same bytes, made at once, that shares the blocks.

Where the file system can do that (XFS with reflink, btrfs), it costs 22 to 50 microseconds an
extent, whatever the size of the file, and takes up room only as far as the first file is changed
afterwards. Both measured; see docs/export-engine.md.
"""

import os
import platform
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from shared.frozen.not_frozen import NotFrozenError

_FICLONE: Final = 0x40049409
_FICLONERANGE: Final = 0x4020940D
#: Source, its offset, the length, the offset in the target.
_RANGE: Final = struct.Struct("=qQQQ")
#: A multiple of the blocks of every file system with reflinks.
_BLOCK: Final = 1 << 16
_FSGETXATTR: Final = 0x801C581F
#: xflags, extsize, nextents, projid, cowextsize, and what is not in use.
_ATTRIBUTES: Final = struct.Struct("=5I8x")
_REALTIME: Final = 0x1


def clone(source: Path, target: Path) -> None:
    """Makes `target`, a new file that only its owner may read, with the bytes of `source` now.

    What others write into `source` later does not change it. Nothing is flushed: after a crash it
    may be there with fewer bytes. Raises `NotFrozenError` if this file system does not do that;
    nothing is left then.
    """
    if platform.system() != "Linux":
        raise NotFrozenError("this system has no reflink clones that were tested")
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _require_plain(descriptor, source)
            _clone(descriptor, target)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotFrozenError(f"{source} cannot be cloned: {error.strerror}") from None


def require_reflinks(source: Path, folder: Path) -> None:
    """Raises `NotFrozenError` unless `source` can be cloned into a folder.

    Tried with its first block, and a file that has no name and is gone at once.
    """
    unnamed = getattr(os, "O_TMPFILE", 0)
    if platform.system() != "Linux" or not unnamed:
        raise NotFrozenError("this system has no reflink clones that were tested")
    from fcntl import ioctl

    try:
        with ExitStack() as stack:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, descriptor)
            _require_plain(descriptor, source)
            made = os.open(folder, os.O_RDWR | unnamed | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, made)
            ioctl(made, _FICLONERANGE, _RANGE.pack(descriptor, 0, _BLOCK, 0))
    except OSError as error:
        raise NotFrozenError(
            f"the file system of {source} makes no reflink clones in {folder}: {error.strerror}"
        ) from None


def _clone(source: int, target: Path) -> None:
    from fcntl import ioctl

    made = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        ioctl(made, _FICLONE, source)
    except BaseException:
        os.unlink(target)
        raise
    finally:
        os.close(made)


def _require_plain(descriptor: int, path: Path) -> None:
    """Refuses what lies on the realtime device of an XFS.

    Its blocks are numbered apart from those of the other device, so that equal numbers would not
    mean equal bytes.
    """
    from fcntl import ioctl

    attributes = bytearray(_ATTRIBUTES.size)
    try:
        ioctl(descriptor, _FSGETXATTR, attributes)
    except OSError:
        return  # a file system that has no such attributes has no realtime device either
    if _ATTRIBUTES.unpack(attributes)[0] & _REALTIME:
        raise NotFrozenError(f"{path} lies on the realtime device of its file system")
