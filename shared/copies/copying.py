"""Copy a file to another directory where it cannot be renamed; it counts once it was read back."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.copies.copy_files import NasFiles
from shared.copies.sidecar_fields import SideFile
from shared.host.errors import CopyError
from shared.nas.reading import look, open_file
from shared.ova.check import Progress, sha256_of

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Route:
    """A move of a VM's copies: from `source` to `target`, those of the VM `uuid`, under `claim`.

    The claim's number is in the names of partial files. `reserve` is the room that must stay free
    at the target; `live` are the claims of others, whose partial files there are not touched.
    `check` is called before every step and with every megabyte, so it should look at no more than
    what the process knows; it raises when the claim is lost, or when the move is to stop.
    """

    source: Path
    target: Path
    uuid: str
    claim: int
    reserve: int = 0
    live: frozenset[int] = frozenset()
    check: Callable[[], None] = lambda: None
    progress: Progress = lambda _done, _total: None


@dataclass(frozen=True, slots=True)
class Transport:
    """One file to copy, with the size and digest that it must have.

    It is called `name` in both directories, and `temporary` at the target until it is whole.
    """

    source: Path
    target: Path
    name: str
    temporary: str
    expected: SideFile


def copy_file(
    files: NasFiles,
    way: Transport,
    *,
    check: Callable[[], None] = lambda: None,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Copy a file under its temporary name, read it back, compare its digest, and rename it.

    The source stays. `check` is called with every megabyte and before the rename. After a crash the
    temporary file may be left. Raises OSError, and `CopyError` if the file is damaged at the
    source, or arrived wrong.
    """
    files.remove(way.target, way.temporary)
    try:
        _copy_bytes(files, way, check, progress)
        if sha256_of(way.target, way.temporary) != way.expected.sha256:
            damaged = sha256_of(way.source, way.name) != way.expected.sha256
            raise CopyError(
                f"{way.name} is damaged: its digest is wrong"
                if damaged
                else "its bytes arrived wrong at the target"
            )
    except (OSError, CopyError):
        files.remove(way.target, way.temporary)
        raise
    _keep_time(files, way)
    check()
    files.rename(way.target, way.temporary, way.name)


def _keep_time(files: NasFiles, way: Transport) -> None:
    """Keep the time of the source: the copy was created then, not when it was moved.

    Where a file system refuses that, one of the signs that tell which copy is newer is lost.
    """
    with contextlib.suppress(OSError):
        files.set_times(way.target, way.temporary, look(way.source)[way.name].modified)


def _copy_bytes(
    files: NasFiles, way: Transport, check: Callable[[], None], progress: Progress
) -> None:
    with open_file(way.source / way.name, follow=False) as file:
        source = file.fileno()
        total, done = os.fstat(source).st_size, 0
        target = files.create(way.target, way.temporary)
        try:
            while data := os.read(source, _PIECE):
                files.write(target, data)
                done += len(data)
                progress(done, total)
                check()
            files.sync(target)
        finally:
            os.close(target)
