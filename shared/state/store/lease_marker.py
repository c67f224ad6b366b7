"""The lease marker as a file on the NAS, `vmtool-dblock`.

filelock writes it (`shared.state.store.lease`); here it is read, and taken away from a dead holder.
Each method performs one operation of the protocol, and is told in `shared.state.store.operations`.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from shared.nas.nas_errors import ABSENT, PASSING
from shared.nas.reading import list_fresh, open_file, read_bounded

#: Longer than any lease marker.
_LIMIT_BYTES: Final = 1 << 16


class LeaseMarker:
    """`vmstate/vmtool-dblock` of one database."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "vmtool-dblock"

    def read(self) -> tuple[bytes, int] | None:
        """See `ReadLease`. Raises OSError."""
        list_fresh(self._root)
        try:
            with open_file(self._path) as file:
                return read_bounded(file, _LIMIT_BYTES), os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            if (
                error.errno in ABSENT | PASSING
            ):  # replaced while it was read: the next look will tell
                return None
            raise

    def take_aside(self, private: Path) -> None:
        """See `TakeLeaseAside`."""
        with contextlib.suppress(OSError):
            os.rename(self._path, private)

    def put_back(self, private: Path) -> None:
        """See `PutLeaseBack`."""
        with contextlib.suppress(OSError):
            os.link(private, self._path, follow_symlinks=False)
