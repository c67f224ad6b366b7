"""Holes of a file: zeros that take no room."""

import ctypes
import platform
from functools import cache
from typing import Any, Final

#: FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
_PUNCH: Final = 0x01 | 0x02


def punch_hole(descriptor: int, place: int, length: int) -> bool:
    """Makes a hole of so many bytes of a file that is open for writing.

    Answers whether that was done: not every file system can.
    """
    fallocate = _fallocate()
    return fallocate is not None and fallocate(descriptor, _PUNCH, place, length) == 0


@cache
def _fallocate() -> Any:  # noqa: ANN401 - a function of C
    if platform.system() != "Linux":
        return None
    function = getattr(ctypes.CDLL(None), "fallocate64", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function
