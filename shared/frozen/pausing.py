"""Whether the images of a VM can be cloned while it is paused, and in time."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shared.frozen.comparison import MOST_EXTENTS
from shared.frozen.extents import count_extents
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.reflink import require_reflinks
from shared.frozen.store import RoomLimit

#: What an extent costs at most, as measured: 22 to 50 microseconds.
_EXTENT_SECONDS: Final = 50e-6
#: Of the time for which a VM may stand still, what pausing and resuming it leaves.
_PART: Final = 0.5


def folder_of_clone(image: Path, home: Path, folder: str) -> Path:
    """Where the clone of an image lies: in a folder of that name, beside the VM's settings.

    Or beside the image, if that is on another file system. Raises OSError.
    """
    same = os.stat(image).st_dev == os.stat(home).st_dev
    return (home if same else image.parent) / folder


def require_clonable(images: Iterable[Path], home: Path, limit: RoomLimit) -> None:
    """Raises `NotFrozenError` unless all images can be cloned, and room stays free then."""
    try:
        for image in images:
            place = folder_of_clone(image, home, "x").parent
            require_reflinks(image, place)
            if limit.reached(place):
                raise NotFrozenError(
                    f"less than {limit.percent:g} % of the file system of {place} are free"
                )
    except OSError as error:
        raise NotFrozenError(f"its images cannot be looked at: {error.strerror}") from None


def require_quick(images: Iterable[Path], seconds: float) -> None:
    """Raises `NotFrozenError` if cloning the images may take longer than a VM may stand still."""
    extents = 0
    try:
        for image in images:
            with image.open("rb") as file:
                extents += count_extents(file.fileno())
    except OSError as error:
        raise NotFrozenError(f"its images cannot be looked at: {error.strerror}") from None
    most = min(MOST_EXTENTS, int(seconds * _PART / _EXTENT_SECONDS))
    if extents > most:
        raise NotFrozenError(
            f"its images have {extents} extents on their file system, of which {most} are cloned "
            f"within pause_seconds: they are fragmented"
        )


def flush(images: Iterable[Path]) -> None:
    """Brings to the disk what is written by now, so that cloning has less to wait for.

    Raises `NotFrozenError`.
    """
    try:
        for image in images:
            descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise NotFrozenError(f"its images cannot be flushed: {error.strerror}") from None
