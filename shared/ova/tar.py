"""The tar container of an `.ova`: finds the members of one, and makes the headers of another.

VirtualBox writes ustar headers, sizes of 8 GiB and more in base 256, and no blocks of zeros at the
end (seen with 7.2); archives that end with them are fine as well. Everything else a tar file may
hold (links, devices, extended headers) has no business in a copy.

The standard library's `tarfile` is used for neither: it takes `1_0`, and a field of zeros, for a
number, and it cannot write a ustar header with a size of 8 GiB, nor the numbers of a device that
VirtualBox writes.
"""

import os
from dataclasses import dataclass
from typing import Final

from shared.host.errors import CopyError

BLOCK: Final = 512
#: Two blocks of zeros end an archive.
END: Final = bytes(2 * BLOCK)
#: A VM has some dozen disks at most; thousands of members are an attack or nonsense.
MEMBERS_LIMIT: Final = 1000

_ZEROS: Final = bytes(BLOCK)
_OCTAL_SIZE_LIMIT: Final = 8**11
_LONGEST_NAME: Final = 100
_MODE: Final = 0o640

#: Where the fields of a header are.
_NAME: Final = slice(0, 100)
_SIZE: Final = slice(124, 136)
_CHECKSUM: Final = slice(148, 156)
_TYPE: Final = slice(156, 157)
_MAGIC: Final = slice(257, 265)
_PREFIX: Final = slice(345, 500)

_USTAR: Final = b"ustar\x0000"
_ORDINARY_FILE: Final = (b"0", b"\0")


@dataclass(frozen=True, slots=True)
class TarMember:
    """One file of an archive: its `size` bytes are at `position` of the archive."""

    name: str
    position: int
    size: int


def members(descriptor: int) -> tuple[TarMember, ...]:
    """All members, in order, read with one small read each.

    Raises `CopyError` if the file is not one complete archive.
    """
    total = os.fstat(descriptor).st_size
    found: list[TarMember] = []
    position = 0
    while position < total:
        header = os.pread(descriptor, BLOCK, position)
        if len(header) < BLOCK:
            raise CopyError(f"the file ends inside a tar header, at byte {total}")
        if header == _ZEROS:
            _check_end(descriptor, position, total)
            break
        member = _parse(header, position)
        end = member.position + member.size
        if end > total:
            raise CopyError(
                f"the file is cut off: {member.name!r} should go on to byte {end}, and the file "
                f"ends at {total}"
            )
        if any(member.name == other.name for other in found):
            raise CopyError(f"{member.name!r} is there twice")
        found.append(member)
        if len(found) > MEMBERS_LIMIT:
            raise CopyError(f"there are more than {MEMBERS_LIMIT} members")
        position = end + len(padding(member.size))
    if position > total:
        raise CopyError("the file is cut off in the padding of its last member")
    return tuple(found)


def member_header(name: str, size: int, modified: int) -> bytes:
    """The header of a file of `size` bytes, last `modified` at these seconds since the epoch.

    From 8 GiB on the size is binary. Raises ValueError for a name of more than 100 bytes;
    VirtualBox itself refuses to export such a disk.
    """
    encoded = name.encode()
    if not 0 < len(encoded) <= _LONGEST_NAME:
        raise ValueError(f"a name of {len(encoded)} bytes does not fit into a tar header")
    binary = b"\x80" + size.to_bytes(11, "big")
    header = b"".join(
        (
            encoded.ljust(_LONGEST_NAME, b"\0"),
            _octal(_MODE, 8),
            _octal(0, 8),  # user
            _octal(0, 8),  # group
            _octal(size, 12) if size < _OCTAL_SIZE_LIMIT else binary,
            _octal(modified, 12),
            b" " * 8,  # what the checksum is made with in its own place
            b"0",
            bytes(100),  # target of a link
            _USTAR,
            bytes(64),  # names of user and group
            _octal(0, 8),  # numbers of a device
            _octal(0, 8),
        )
    ).ljust(BLOCK, b"\0")
    checksum = b"%06o\0 " % _checksum(header)
    return header[: _CHECKSUM.start] + checksum + header[_CHECKSUM.stop :]


def padding(size: int) -> bytes:
    """The zeros that fill up a member of `size` bytes to whole blocks."""
    return bytes(-size % BLOCK)


def _parse(header: bytes, position: int) -> TarMember:
    if _number(header[_CHECKSUM], "checksum", position) != _checksum(header):
        raise CopyError(f"there is no tar header at byte {position}: its checksum is wrong")
    name, prefix = header[_NAME].split(b"\0")[0], header[_PREFIX].split(b"\0")[0]
    magic = header[_MAGIC]
    if prefix and (magic[:5], magic[6:]) == (_USTAR[:5], _USTAR[6:]):
        name = prefix + b"/" + name
    text = name.decode("utf-8", "surrogateescape")
    if header[_TYPE] not in _ORDINARY_FILE or not text:
        raise CopyError(f"the member at byte {position} is no ordinary file")
    return TarMember(text, position + BLOCK, _parse_size(header[_SIZE], position))


def _parse_size(data: bytes, position: int) -> int:
    if data[0] & 0x80:
        size = int.from_bytes(bytes([data[0] & 0x7F]) + data[1:])
    else:
        size = _number(data, "size", position)
    if size >= 1 << 63:
        raise CopyError(f"the member at byte {position} has an impossible size")
    return size


def _number(data: bytes, what: str, position: int) -> int:
    digits = data.strip(b" \0")
    if not digits or set(digits) - set(b"01234567"):
        raise CopyError(f"there is no tar header at byte {position}: its {what} is no number")
    return int(digits, 8)


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def _checksum(header: bytes) -> int:
    """The sum of all bytes, those of the checksum itself taken for spaces."""
    return sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")


def _check_end(descriptor: int, position: int, total: int) -> None:
    while position < total:
        data = os.pread(descriptor, 1 << 20, position)
        if not data or data.strip(b"\0"):
            raise CopyError(
                f"there are other bytes after the end of the archive, at byte {position}"
            )
        position += len(data)
