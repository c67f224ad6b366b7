"""What the child says, over a pipe: one JSON object a line, each with so many bytes behind it."""

import json
import os
import select
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from shared.host.errors import CopyError

_LONGEST_LINE: Final = 1 << 20
_MOST_DATA: Final = 1 << 21


class FrameSink(Protocol):
    """Where the child writes."""

    def write(self, data: bytes, /) -> object:
        """Writes all of it."""

    def flush(self) -> object:
        """Passes it on."""


def send(sink: FrameSink, message: Mapping[str, Any], data: bytes = b"") -> None:
    """Says one thing. Names are text with `surrogateescape`. Raises OSError if nobody listens."""
    line = json.dumps({**message, "bytes": len(data)}, ensure_ascii=True)
    sink.write(line.encode() + b"\n" + data)
    sink.flush()


class Frames:
    """What comes out of the child's pipe.

    Raises `CopyError` for what is none of ours, and if nothing comes for `silence_seconds`.
    """

    def __init__(self, pipe: int, silence_seconds: float) -> None:
        self._pipe, self._silence = pipe, silence_seconds
        self._buffer = bytearray()

    def next(self) -> tuple[dict[str, Any], bytes] | None:
        """One message and its bytes; None when the child has ended."""
        end = time.monotonic() + self._silence
        while (at := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LONGEST_LINE:
                raise CopyError("what reads the disk says what cannot be")
            if not self._more(end):
                return None
        try:
            message = json.loads(bytes(self._buffer[:at]))
            length = message["bytes"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CopyError("what reads the disk says what cannot be") from None
        if type(length) is not int or not 0 <= length <= _MOST_DATA:
            raise CopyError("what reads the disk says what cannot be")
        del self._buffer[: at + 1]
        while len(self._buffer) < length:
            if not self._more(end):
                return None
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return message, data

    def _more(self, end: float) -> bool:
        ready, _, _ = select.select([self._pipe], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise CopyError(
                f"the disk could not be read further: nothing came for {self._silence:.0f} s",
                hint="the NAS hangs, or the guest's file system is damaged",
            )
        data = os.read(self._pipe, 1 << 20)
        self._buffer += data
        return bool(data)
