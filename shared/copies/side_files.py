"""Files beside an `.ova` that belong to the copy: what the `.ova` leaves out.

Written under partial names, published with the copy.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from shared.copies.copy_files import NasFiles
from shared.copies.names import Suffix, final_name, partial_name
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import SideFile
from shared.host.errors import CopyError
from shared.host.rate_limit import UNLIMITED, Pace
from shared.nas.nas_errors import reported
from shared.nas.reading import Entry, open_file, present
from shared.ova.check import sha256_of
from shared.ova.tar import members

_PIECE: Final = 1 << 20


def keep(
    files: NasFiles,
    directory: Path,
    name: str,
    pieces: Iterable[bytes],
    *,
    check: Callable[[], None] = lambda: None,
    pace: Pace = UNLIMITED,
) -> SideFile:
    """Write a side file under its partial name `name` and read it back; returns size and digest.

    What an earlier attempt left under that name is replaced; after a crash it may be there, torn.
    `check` is called with every piece and raises when the work is to stop; no faster than `pace` it
    is sent, and read. Raises `NasError` if the
    NAS refuses, `CopyError` if it has other bytes in the end.
    """
    digest, size = hashlib.sha256(), 0
    with reported(f"write {name}"):
        files.remove(directory, name)
        descriptor = files.create(directory, name)
        try:
            for piece in pieces:
                check()
                pace.wait(len(piece))
                files.write(descriptor, piece)
                digest.update(piece)
                size += len(piece)
            files.sync(descriptor)
        finally:
            os.close(descriptor)
        if sha256_of(directory, name, pace=pace) != digest.hexdigest():
            raise CopyError(f"the bytes of {name} arrived wrong on the NAS")
    return SideFile(size, digest.hexdigest())


def pieces_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file on this host, a megabyte at a time.

    Raises `CopyError` if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise CopyError(f"cannot read {path}: {error.strerror}") from None


def missing(
    entries: Mapping[str, Entry],
    stamp: str,
    expected: Mapping[Suffix, SideFile],
    *,
    claim: int | None = None,
) -> str:
    """Why the side files are not all there as they should be; empty: they are.

    With `claim` those that are still partial are meant.
    """
    for suffix, side in expected.items():
        name = final_name(stamp, suffix) if claim is None else partial_name(stamp, claim, suffix)
        if not present(entries, name):
            return f"its .{suffix} is missing"
        if entries[name].size != side.size:
            return f"its .{suffix} has {entries[name].size} bytes instead of {side.size}"
    return ""


def missing_of_copy(entries: Mapping[str, Entry], sidecar: Sidecar) -> str:
    """Why not all files are there as the sidecar of a copy says; empty: they are."""
    ova = SideFile(sidecar.size, sidecar.sha256)
    return missing(entries, sidecar.stamp, {"ova": ova, **sidecar.needed_files})


def member_names(directory: Path, name: str) -> tuple[str, ...]:
    """What is in an `.ova`, from the headers alone.

    Raises `CopyError` if it is damaged so that they cannot be read, or `NasError`.
    """
    with reported(f"read {name}"), open_file(directory / name, follow=False) as file:
        return tuple(member.name for member in members(file.fileno()))
