"""Disks with LVM: made by its own programs, and by hand for what those would not make.

No device-mapper is needed: nothing is activated. Where the bytes of a volume lie is what LVM says.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.guest_disks import MIB, run
from tests.support.packages import require

_SETTINGS = """
devices {{ use_devicesfile=0 filter=[{filters}"r|.*|"] }}
activation {{ udev_sync=0 udev_rules=0 monitoring=0 }}
global {{ use_lvmpolld=0 activation=0 locking_dir="{folder}" }}
backup {{ backup=0 archive=0 }}
"""


@dataclass(frozen=True)
class Lvm:
    """LVM with these images as its disks, and no others."""

    images: Sequence[Path]
    devices: Sequence[str]
    settings: str

    def __call__(self, command: str, *words: str | Path) -> str:
        """Runs one of its commands; `@1` stands for the first disk, `@2` for the second."""
        named = [
            self.devices[int(word[1:]) - 1] if str(word).startswith("@") else word
            for word in map(str, words)
        ]
        return run("lvm", command, "--driverloaded", "n", "--config", self.settings, *named)

    def volume(self, group: str, name: str, extents: int, *more: str) -> None:
        """Makes a volume; `more` are the disks on which it shall lie, or options."""
        made = ("-an", "-Zn", "-Wn", "-y", "-n", name, "-l", str(extents))
        self("lvcreate", *made, group, *more)

    def fill(self, volume: str, data: bytes) -> None:
        """Writes into a volume, where LVM says that it lies."""
        rows = self(
            "lvs",
            "--segments",
            "--noheadings",
            "--nosuffix",
            "--units",
            "b",
            "-o",
            "seg_start,seg_size,stripes,stripesize,devices",
            "--separator",
            ";",
            volume,
        )
        for row in rows.split("\n"):
            if row.count(";") != 4:
                continue
            start, size, count, stripe, places = (word.strip() for word in row.split(";"))
            self._segment(data[int(start) :][: int(size)], int(stripe) or int(size), places)
            assert places.count("(") == int(count)

    def describe(self, group: str, volumes: str, folder: Path) -> None:
        """Adds volumes that cannot be made without device-mapper, by their description."""
        self("vgcfgbackup", "-f", folder / "described", group)
        text = (folder / "described").read_text()
        added = text.replace("logical_volumes {", "logical_volumes {" + volumes, 1)
        (folder / "described").write_text(added)
        self("vgcfgrestore", "--force", "-y", "-f", folder / "described", group)

    def _segment(self, data: bytes, stripe: int, places: str) -> None:
        areas = []
        for place in places.split(","):
            device, _, first = place.rstrip(")").partition("(")
            areas.append([self.devices.index(device), MIB + int(first) * 4 * MIB])
        for turn, at in enumerate(range(0, len(data), stripe)):
            area = areas[turn % len(areas)]
            with self.images[area[0]].open("r+b") as file:
                file.seek(area[1])
                file.write(data[at : at + stripe])
            area[1] += stripe


def described(name: str, segment: str, extents: int, *, hidden: bool = False) -> str:
    """A volume of one segment, as LVM describes it."""
    uuid = f"{name.replace('_', '')[-6:]:a<6}-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa"
    visible = "" if hidden else ',"VISIBLE"'
    return f"""
{name} {{ id="{uuid}" status=["READ","WRITE"{visible}] flags=[] segment_count=1
segment1 {{ start_extent=0 extent_count={extents} {segment} }} }}"""


def on(disk: str, extent: int) -> str:
    """That a segment lies there."""
    return f'type="striped" stripe_count=1 stripes=["{disk}",{extent}]'


#: A thin volume with its pool and what that consists of, and a snapshot of `home`, which has six
#: extents: they lie on the last three extents of two disks of 15 each.
UNREAD = "".join(
    (
        described(
            "pool",
            'type="thin-pool" metadata="pool_tmeta" pool="pool_tdata" transaction_id=1 '
            'chunk_size=128 discards="passdown" zero_new_blocks=0',
            1,
        ),
        described("thin", 'type="thin" thin_pool="pool" transaction_id=0 device_id=1', 9),
        described("pool_tmeta", on("pv0", 14), 1, hidden=True),
        described("pool_tdata", on("pv1", 14), 1, hidden=True),
        described("cow", on("pv1", 13), 1),
        described(
            "snapshot0",
            'type="snapshot" chunk_size=8 origin="home" cow_store="cow"',
            6,
            hidden=True,
        ),
    )
)


@contextmanager
def lvm(folder: Path, *images: Path) -> Iterator[Lvm]:
    """LVM whose disks are these images, while it lasts."""
    require("lvm", "lvm2")
    with ExitStack() as stack:
        devices = []
        for image in images:
            device = run("losetup", "-f", "--show", image).strip()
            stack.callback(run, "losetup", "-d", device)
            devices.append(device)
        filters = "".join(f'"a|^{device}$|",' for device in devices)
        yield Lvm(images, devices, _SETTINGS.format(filters=filters, folder=folder))


def _bits(number: int) -> int:
    for _ in range(8):
        number = number >> 1 ^ (0xEDB88320 if number & 1 else 0)
    return number


_TABLE = [_bits(number) for number in range(256)]


def checksum(data: bytes) -> int:
    """The checksum of LVM, byte by byte."""
    found = 0xF597A6CF
    for byte in data:
        found = _TABLE[(found ^ byte) & 0xFF] ^ found >> 8
    return found


def physical_volume(text: bytes, uuid: str, size: int = 8 * MIB, at: int = 512) -> bytes:
    """A partition with that description of its group, which begins `at` bytes into its area."""
    image, area, room = bytearray(size), 4096, MIB - 4096
    places = struct.pack("<6Q", MIB, 0, 0, 0, area, room) + bytes(16)
    label = struct.pack("<I8s", 32, b"LVM2 001") + uuid.encode() + struct.pack("<Q", size) + places
    label = label.ljust(512 - 20, b"\0")
    image[512:1024] = struct.pack("<8sQI", b"LABELONE", 1, checksum(label)) + label
    where = struct.pack("<QQII", at, len(text), checksum(text), 0)
    header = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, area, room) + where
    header = header.ljust(512 - 4, b"\0")
    image[area : area + 512] = struct.pack("<I", checksum(header)) + header
    before = text[: room - at]
    image[area + at : area + at + len(before)] = before
    rest = text[len(before) :]
    image[area + 512 : area + 512 + len(rest)] = rest
    return bytes(image)
