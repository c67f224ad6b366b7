"""The members of an `.ova`, which is a plain tar file, found from their headers alone.

VirtualBox writes ustar headers, sizes above 8 GiB in base 256, and no blocks of zeros at the end
(seen with 7.2); archives that end with them are fine as well. Everything else a tar file may hold
(links, devices, extended headers) has no business in a copy.
"""

import os
from dataclasses import dataclass
from typing import Final

from shared.host.errors import CopyError

BLOCK: Final = 512
#: A VM has some dozen disks at most; thousands of members are an attack or nonsense.
MEMBERS_LIMIT: Final = 1000

_ZEROS: Final = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the archive: where its bytes begin, and how many they are."""

    name: str
    offset: int
    size: int


def members(descriptor: int) -> tuple[Member, ...]:
    """All members, in order, read with one small read each.

    Raises `CopyError` if the file is not one complete archive.
    """
    total = os.fstat(descriptor).st_size
    found: list[Member] = []
    position = 0
    while position < total:
        header = os.pread(descriptor, BLOCK, position)
        if len(header) < BLOCK:
            raise CopyError(f"the file ends inside a tar header, at byte {total}")
        if header == _ZEROS:
            _check_end(descriptor, position, total)
            break
        member = _member(header, position)
        end = member.offset + member.size
        if end > total:
            raise CopyError(
                f"the file is cut off: {member.name!r} should go on to byte {end}, and the "
                f"file "
                f"ends at {total}"
            )
        if any(member.name == other.name for other in found):
            raise CopyError(f"{member.name!r} is there twice")
        found.append(member)
        if len(found) > MEMBERS_LIMIT:
            raise CopyError(f"there are more than {MEMBERS_LIMIT} members")
        position = -(-end // BLOCK) * BLOCK
    if position > total:
        raise CopyError("the file is cut off in the padding of its last member")
    return tuple(found)


def _member(header: bytes, position: int) -> Member:
    stated = _octal(header[148:156], "checksum", position)
    if stated != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
        raise CopyError(f"there is no tar header at byte {position}: its checksum is wrong")
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    if header[257:262] == b"ustar" and prefix and header[263:265] == b"00":
        name = prefix + b"/" + name
    text = name.decode("utf-8", "surrogateescape")
    if header[156:157] not in (b"0", b"\0") or not text:
        raise CopyError(f"the member at byte {position} is no ordinary file")
    return Member(text, position + BLOCK, _size(header[124:136], position))


def _size(data: bytes, position: int) -> int:
    in_base_256 = data[0] & 0x80
    size = (
        int.from_bytes(bytes([data[0] & 0x7F]) + data[1:])
        if in_base_256
        else _octal(data, "size", position)
    )
    if size >= 1 << 63:
        raise CopyError(f"the member at byte {position} has an impossible size")
    return size


def _octal(data: bytes, what: str, position: int) -> int:
    digits = data.strip(b" \0")
    if not digits or set(digits) - set(b"01234567"):
        raise CopyError(f"there is no tar header at byte {position}: its {what} is no number")
    return int(digits, 8)


def _check_end(descriptor: int, position: int, total: int) -> None:
    while position < total:
        data = os.pread(descriptor, 1 << 20, position)
        if not data or data.strip(b"\0"):
            raise CopyError(
                f"there are other bytes after the end of the archive, at byte {position}"
            )
        position += len(data)
