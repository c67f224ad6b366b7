"""Which file system, or what else, lies in a partition: told by its first bytes."""

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coordinator.guest.partitions import Read

_HEAD: Final = 4096
_BITLOCKER_TO_GO: Final = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")
_EXT_AT: Final = 1024
#: Features of ext file systems that its reader must or may know.
_JOURNAL: Final = 0x4
_NEEDS_RECOVERY: Final = 0x4
_OF_EXT4: Final = 0x40 | 0x80 | 0x200
_ENCRYPT: Final = 0x10000


class ContentKind(StrEnum):
    """What lies in a partition; the value is what people are told."""

    EXT2 = "ext2"
    EXT3 = "ext3"
    EXT4 = "ext4"
    NTFS = "NTFS"
    FAT = "FAT"
    EXFAT = "exFAT"
    XFS = "XFS"
    BTRFS = "btrfs"
    LVM = "LVM"
    RAID = "Linux RAID"
    LUKS = "LUKS"
    BITLOCKER = "BitLocker"
    SWAP = "swap"
    UNKNOWN = "unknown"

    @property
    def readable(self) -> bool:
        """Whether `files` reads it."""
        return self in _READABLE

    @property
    def encrypted(self) -> bool:
        """Whether nothing of it can be read without a key."""
        return self in (ContentKind.LUKS, ContentKind.BITLOCKER)


_READABLE: Final = (
    ContentKind.EXT2,
    ContentKind.EXT3,
    ContentKind.EXT4,
    ContentKind.NTFS,
    ContentKind.FAT,
    ContentKind.EXFAT,
)


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a partition. `note` is what its reader should know; empty: nothing."""

    kind: ContentKind
    note: str = ""


def recognise(read: Read) -> Found:
    """What the first bytes say; `read` reads from the start of the partition.

    Raises what `read` raises.
    """
    head = read(0, _HEAD)
    head += bytes(_HEAD - len(head))
    for kind, place, magic in _MAGIC:
        there = (
            head[place : place + len(magic)]
            if place + len(magic) <= _HEAD
            else read(place, len(magic))
        )
        if there == magic:
            return Found(kind)
    labels = (head[at : at + 28] for at in range(0, 2048, 512))
    if any(label[:8] == b"LABELONE" and label[24:] == b"LVM2" for label in labels):
        return Found(ContentKind.LVM)
    # what makes an ext file system removes a FAT before it, but may put a boot loader there
    named_fat = head[54:57] == b"FAT" or head[82:85] == b"FAT"
    if head[_EXT_AT + 56 : _EXT_AT + 58] == b"\x53\xef" and not named_fat:
        return _ext(head)
    if _is_fat(head):
        to_go = head[424:440] == _BITLOCKER_TO_GO
        return Found(ContentKind.BITLOCKER if to_go else ContentKind.FAT)
    return Found(ContentKind.UNKNOWN)


_MAGIC: Final = (
    (ContentKind.NTFS, 3, b"NTFS    "),
    (ContentKind.BITLOCKER, 3, b"-FVE-FS-"),
    (ContentKind.EXFAT, 3, b"EXFAT   "),
    (ContentKind.LUKS, 0, b"LUKS\xba\xbe"),
    (ContentKind.XFS, 0, b"XFSB"),
    (ContentKind.BTRFS, 0x10040, b"_BHRfS_M"),
    (ContentKind.RAID, 0, b"\xfc\x4e\x2b\xa9"),
    (ContentKind.RAID, 4096, b"\xfc\x4e\x2b\xa9"),
    (ContentKind.SWAP, 4086, b"SWAPSPACE2"),
)


def _is_fat(head: bytes) -> bool:
    if head[510:512] != b"\x55\xaa" or head[0] not in (0xEB, 0xE9):
        return False
    width, cluster, reserved, tables = struct.unpack_from("<HBHB", head, 11)
    plausible = width in (512, 1024, 2048, 4096) and cluster and not cluster & (cluster - 1)
    return bool(plausible and reserved and tables in (1, 2))


def _ext(head: bytes) -> Found:
    compatible, incompatible = struct.unpack_from("<II", head, _EXT_AT + 92)
    if incompatible & _OF_EXT4:
        kind = ContentKind.EXT4
    else:
        kind = ContentKind.EXT3 if compatible & _JOURNAL else ContentKind.EXT2
    notes = []
    if incompatible & _NEEDS_RECOVERY:
        notes.append("it was in use: what was written last may be in its journal only")
    if incompatible & _ENCRYPT:
        notes.append("it may have encrypted directories, whose files are of no use without the key")
    return Found(kind, "; ".join(notes))
