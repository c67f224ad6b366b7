"""The tar container of an OVA: member headers, and the blocks that end it. Pure."""

from typing import Final

BLOCK: Final = 512
#: Two blocks of zeros end an archive.
END: Final = bytes(2 * BLOCK)

_OCTAL_SIZE_LIMIT: Final = 8**11
_LONGEST_NAME: Final = 100


def member_header(name: str, size: int, modified: int) -> bytes:
    """The header of a file of `size` bytes, last `modified` at these seconds since the epoch.

    From 8 GiB on the size is binary.

    Raises ValueError for a name of more than 100 bytes; VirtualBox itself refuses to export such a
    disk.
    """
    encoded = name.encode()
    if not 0 < len(encoded) <= _LONGEST_NAME:
        raise ValueError(f"a name of {len(encoded)} bytes does not fit into a tar header")
    header = bytearray(BLOCK)
    header[: len(encoded)] = encoded
    for start, width, value in (
        (100, 8, 0o640),
        (108, 8, 0),
        (116, 8, 0),
        (136, 12, modified),
        (329, 8, 0),
        (337, 8, 0),
    ):
        header[start : start + width] = _octal(value, width)
    header[124:136] = (
        _octal(size, 12) if size < _OCTAL_SIZE_LIMIT else b"\x80" + size.to_bytes(11, "big")
    )
    header[148:156] = b" " * 8
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def padding(size: int) -> bytes:
    """The zeros that fill up a member of `size` bytes to whole blocks."""
    return bytes(-size % BLOCK)


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)
