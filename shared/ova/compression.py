"""Compresses and inflates grains: by Intel's ISA-L and libdeflate where they are, else by zlib.

All make zlib streams. Source MB/s of one core and size left, 64 KiB grains of /usr (zlib 6, which
is what VirtualBox uses: 28 MB/s, size 1): ISA-L 2: 340, 1.09; libdeflate 1: 159, 1.06; zlib 1: 71,
1.09. Inflating: libdeflate 573, ISA-L 492, zlib 210. The packages `isal` and `deflate` are
dependencies on all platforms for which there are wheels; on others, all works without them.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, cast

_ISAL_LEVEL: Final = 2
_LIBDEFLATE_LEVEL: Final = 1
_ZLIB_LEVEL: Final = 1
#: Room for a grain and one byte: a buffer that is just full is doubled, in search of more.
_BUFFER: Final = 64 * 1024 + 1


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to compress; `name` is for logs.

    Both functions release the interpreter's lock, so threads use all cores.
    """

    name: str
    compress: Callable[[bytes | memoryview], bytes]
    decompress: Callable[[bytes], bytes]


def best_codec() -> Codec:
    """The fastest that can be imported: ISA-L, else libdeflate, else zlib, at a fast level.

    What it compressed is inflated by libdeflate, where that is: faster, and by another hand.
    """
    compress, inflate = _isal(), _libdeflate()
    if compress is None:
        return inflate or zlib_codec(_ZLIB_LEVEL)
    return replace(compress, decompress=inflate.decompress) if inflate else compress


def slowness(codec: str) -> str:
    """What is missing where exports compress with `codec`, and how to get it; empty: nothing."""
    if codec.startswith("isal"):
        return ""
    times = "2" if codec.startswith("libdeflate") else "4"
    return (
        f"compresses with {codec}, because the package isal is not installed: with it, it is about "
        f"{times} times as fast (`pip install isal` in the environment of vmbackup; where there is "
        "no wheel for this platform, that needs a C compiler and nasm)"
    )


def _isal() -> Codec | None:
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return Codec(
        f"isal {_ISAL_LEVEL}",
        lambda data: isal_zlib.compress(data, _ISAL_LEVEL),
        lambda data: isal_zlib.decompress(data, bufsize=_BUFFER),
    )


def _libdeflate() -> Codec | None:
    try:
        import deflate
    except ImportError:
        return None
    return Codec(
        f"libdeflate {_LIBDEFLATE_LEVEL}",
        lambda data: bytes(deflate.zlib_compress(data, _LIBDEFLATE_LEVEL)),
        lambda data: bytes(deflate.zlib_decompress(data, _BUFFER)),
    )


def zlib_codec(level: int) -> Codec:
    """The zlib of Python at `level` 1 (fastest) to 9 (smallest)."""
    return Codec(
        f"zlib {level}",
        lambda data: zlib.compress(data, level),
        lambda data: zlib.decompress(data, bufsize=_BUFFER),
    )


def best_inflate() -> Callable[[bytes | memoryview, int], bytes]:
    """Inflates one zlib stream, to at most so many bytes: by ISA-L if it can be imported.

    Raises ValueError for what is no whole stream, has bytes behind it, is longer, or has a wrong
    checksum. Releases the interpreter's lock.
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return _bounded(zlib.decompressobj, zlib.error)
    return _bounded(isal_zlib.decompressobj, cast("type[Exception]", isal_zlib.error))


def fastest_inflate() -> Callable[[bytes | memoryview, int], bytes | bytearray]:
    """The same for bytes whose digests are compared elsewhere: by libdeflate if it can be imported.

    Measured: 780 MB/s, where ISA-L has 640. It does not notice bytes behind the stream.
    """
    try:
        import deflate
    except ImportError:
        return best_inflate()

    def inflate(data: bytes | memoryview, limit: int) -> bytearray:
        try:
            found: bytearray = deflate.zlib_decompress(data, limit + 1)
        except (deflate.DeflateError, MemoryError) as what:
            raise ValueError(f"it cannot be inflated: {what}") from None
        if len(found) > limit:
            raise ValueError("it is no single stream of that length")
        return found

    return inflate


class _Inflater(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes: ...


def _bounded(
    make: Callable[[], Any], error: type[Exception]
) -> Callable[[bytes | memoryview, int], bytes]:
    def inflate(data: bytes | memoryview, limit: int) -> bytes:
        inflater: _Inflater = make()
        try:
            found = inflater.decompress(data, limit + 1)
        except error as what:
            raise ValueError(f"it cannot be inflated: {what}") from None
        if not inflater.eof or inflater.unused_data or len(found) > limit:
            raise ValueError("it is no single stream of that length")
        return found

    return inflate
