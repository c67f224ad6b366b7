"""A file as the machine that has the NAS reads it, by FUSE (tests.support.relay).

python -m tests.support.relayed_file JOB FILE PLACE KIND
"""

import errno
import itertools
import sys
import time
from pathlib import Path

import mfusepy

from tests.support.shown_file import ShownFile, show

_PATIENCE_SECONDS = 60


class RelayedFile(ShownFile):
    """Asks for all that is read."""

    def __init__(self, job: Path, file: Path, kind: str) -> None:
        super().__init__(file)
        self._job, self._kind, self._numbers = job, kind, itertools.count()

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        asked = f"{self._kind}-{next(self._numbers):06}-{offset}-{size}"
        (self._job / "asked" / asked).touch()
        answer, end = self._job / "answered" / asked, time.monotonic() + _PATIENCE_SECONDS
        while not answer.exists():
            if time.monotonic() > end or answer.with_name(f"failed-{asked}").exists():
                raise mfusepy.FuseOSError(errno.EIO)
            time.sleep(0.002)
        return answer.read_bytes()


if __name__ == "__main__":
    job, file, place, kind = sys.argv[1:]
    show(RelayedFile(Path(job), Path(file), kind), place)
