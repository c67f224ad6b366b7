"""A file of which a part cannot be read for a while, as when the NAS has gone away: real FUSE.

    python -m tests.support.faulty_file FILE PLACE FLAG BEGIN END

Shows FILE in PLACE. As long as there is a file FLAG, reading from byte BEGIN to END fails.
"""

import errno
import os
import sys
from pathlib import Path

import mfusepy

from tests.support.shown_file import ShownFile, show


class FaultyFile(ShownFile):
    """Reads one file."""

    def __init__(self, file: Path, flag: Path, begin: int, end: int) -> None:
        super().__init__(file)
        self._flag, self._begin, self._end = flag, begin, end
        self._file = os.open(file, os.O_RDONLY)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if offset < self._end and offset + size > self._begin and self._flag.exists():
            raise mfusepy.FuseOSError(errno.EIO)
        return os.pread(self._file, size, offset)


if __name__ == "__main__":
    show(FaultyFile(Path(sys.argv[1]), Path(sys.argv[3]), *map(int, sys.argv[4:])), sys.argv[2])
