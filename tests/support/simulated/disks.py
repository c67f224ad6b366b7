"""Disk images: real VDI files that VirtualBox itself can open, small and sparse.

Layout of a dynamic VDI (measured on images of VirtualBox 7.2): a header of 512 bytes, at 1 MiB the
block map (one 32-bit number a block: its place in the file, or all ones), at 2 MiB the blocks of 1
MiB in the order in which they were first written.
"""

import os
import struct
from collections.abc import Iterator

from tests.support.simulated.errors import VBoxError, failed_task
from tests.support.simulated.state import Host, Machine, Medium

BLOCK = 1 << 20
_MAP_OFFSET, _DATA_OFFSET = 1 << 20, 2 << 20
_FREE = 0xFFFFFFFF
_TEXT = b"<<< Oracle VirtualBox Disk Image >>>\n"
_SIGNATURE, _VERSION = 0xBEDA107F, 0x00010001
_DYNAMIC, _DIFFERENCING = 1, 4
_ALLOCATED_OFFSET = 0x184
#: The guest counts here: two letters, two zeros, a 32-bit number.
COUNTER_OFFSET = 63 * 512


def create(path: str, uuid: str, mib: int, parent: str = "") -> None:
    """An empty image. Raises FileExistsError."""
    kind = _DIFFERENCING if parent else _DYNAMIC
    header = struct.pack("<64sIIIII", _TEXT, _SIGNATURE, _VERSION, 400, kind, 0)
    header = header.ljust(0x154, b"\0") + struct.pack("<II", _MAP_OFFSET, _DATA_OFFSET)
    header += struct.pack("<IIII", 0, 0, 0, 512) + struct.pack(
        "<IQIIII", 0, mib * BLOCK, BLOCK, 0, mib, 0
    )
    header += b"".join(_binary(text) for text in (uuid, uuid, parent, parent)) + struct.pack(
        "<IIII", 0, 0, 0, 512
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, header.ljust(512, b"\0"))
        os.pwrite(descriptor, struct.pack("<I", _FREE) * mib, _MAP_OFFSET)
        os.ftruncate(descriptor, _DATA_OFFSET)
    finally:
        os.close(descriptor)


def _binary(uuid: str) -> bytes:
    """A UUID as VDI stores it: the first three groups turned round."""
    raw = bytes.fromhex(uuid.replace("-", "")) if uuid else bytes(16)
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]


def _text(raw: bytes) -> str:
    digits = (raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]).hex()
    return (
        "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        if any(raw)
        else ""
    )


def opened(path: str) -> Medium:
    """What the header of the image says. Raises `VBoxError` if it is none."""
    check_readable(Medium("", path, 0))
    with open(path, "rb") as file:
        header = file.read(512)
    mib = struct.unpack_from("<I", header, 0x180)[0]
    return Medium(_text(header[0x188:0x198]), path, mib, parent=_text(header[0x1A8:0x1B8]))


def check_readable(medium: Medium) -> None:
    """Raises `VBoxError` in VirtualBox's words if the image is not there or is none."""
    try:
        with open(medium.location, "rb") as file:
            start = file.read(512)
    except OSError as error:
        name = (
            "VERR_FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "VERR_ACCESS_DENIED"
        )
        detail = ""
    else:
        if (
            medium.format != "VDI"
            or struct.unpack_from("<I", start.ljust(512, b"\0"), 0x40)[0] == _SIGNATURE
        ):
            return
        name = "VERR_VD_VDI_INVALID_HEADER"
        detail = f"VDI: invalid pre-header in '{medium.location}' ({name}).\n"
    text = (
        f"Could not open the medium '{medium.location}'.\n{detail}VD: error {name} opening "
        f"image file '{medium.location}' ({name})"
    )
    raise VBoxError(text, code="NS_ERROR_FAILURE", component="MediumWrap")


def check_readable_for_task(medium: Medium, title: str, handler: str) -> None:
    """The same, in the words of a task with progress."""
    try:
        check_readable(medium)
    except VBoxError as error:
        code, component = "NS_ERROR_FAILURE", "MediumWrap"
        raise failed_task(
            title, str(error.args[0][0]), code=code, component=component, handler=handler
        ) from None


def _offsets(path: str) -> tuple[int, int]:
    """Where the map and the blocks begin: images that others made have them elsewhere."""
    with open(path, "rb") as file:
        found: tuple[int, int] = struct.unpack_from("<II", file.read(512), 0x154)
    return found


def _map(path: str) -> list[int]:
    with open(path, "rb") as file:
        count = struct.unpack_from("<I", file.read(512), 0x180)[0]
        file.seek(_offsets(path)[0])
        return list(struct.unpack(f"<{count}I", file.read(4 * count)))


def allocated(path: str) -> list[int]:
    """The blocks that have a content of their own in this image."""
    return [block for block, place in enumerate(_map(path)) if place != _FREE]


def read_block(chain: list[Medium], block: int) -> bytes:
    """One block as the guest sees it: from the first image that has it. Zeros if none has."""
    for medium in chain:
        place = _map(medium.location)[block]
        if place != _FREE:
            with open(medium.location, "rb") as file:
                file.seek(_offsets(medium.location)[1] + place * BLOCK)
                return file.read(BLOCK).ljust(BLOCK, b"\0")
    return bytes(BLOCK)


def blocks(chain: list[Medium]) -> Iterator[tuple[int, bytes]]:
    """All blocks that any image of the chain has, in order."""
    for block in sorted({block for medium in chain for block in allocated(medium.location)}):
        yield block, read_block(chain, block)


def write(path: str, block: int, data: bytes, offset: int = 0) -> None:
    """Writes into a block of the image.

    A block that it does not have yet is added, zeros around `data`.
    """
    map_offset, data_offset = _offsets(path)
    with open(path, "r+b") as file:
        places = _map(path)
        if places[block] == _FREE:
            places[block] = sum(place != _FREE for place in places)
            file.seek(map_offset + 4 * block)
            file.write(struct.pack("<I", places[block]))
            file.seek(_ALLOCATED_OFFSET)
            file.write(struct.pack("<I", places[block] + 1))
            file.truncate(data_offset + (places[block] + 1) * BLOCK)
        file.seek(data_offset + places[block] * BLOCK + offset)
        file.write(data)


def merge(upper: Medium, lower: Medium) -> None:
    """Writes what `upper` has into `lower`."""
    for block in allocated(upper.location):
        write(lower.location, block, read_block([upper], block))


def boot_disk(host: Host, machine: Machine) -> list[Medium]:
    """The chain of the machine's first disk.

    Empty if it has none, or one that the guest cannot count on.
    """
    chain = host.chain(next(iter(machine.disks.values()))) if machine.disks else []
    return [] if any(medium.format != "VDI" for medium in chain) else chain


def read_counter(host: Host, machine: Machine) -> int:
    chain = boot_disk(host, machine)
    data = read_block(chain, 0)[COUNTER_OFFSET : COUNTER_OFFSET + 8] if chain else b""
    return int.from_bytes(data[4:8], "little") if data[:2] == b"TC" else 0


def write_counter(host: Host, machine: Machine, count: int) -> None:
    chain = boot_disk(host, machine)
    if not chain:
        return
    if 0 not in allocated(chain[0].location):
        write(chain[0].location, 0, read_block(chain, 0))
    write(chain[0].location, 0, struct.pack("<2sxxI", b"TC", count), COUNTER_OFFSET)
