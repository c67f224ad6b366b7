"""Files in the disk of a VM of the demo, as a guest would have them: a partition with ext4."""

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_MIB: Final = 1 << 20
#: The guest of the demo has the first MiB for itself; its random data are behind it.
_FIRST: Final = _MIB
_SECTOR: Final = 512
_LINUX: Final = 0x83


def put(disk: Path, files: Mapping[str, str], mib: int) -> bool:
    """Makes a partition of `mib` MiB in a VDI file whose blocks are there; the VM is off.

    False if this machine cannot make a file system.
    """
    if shutil.which("mkfs.ext4") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        image, tree = Path(folder, "image"), Path(folder, "tree")
        for name, text in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        with image.open("wb") as file:
            file.truncate(mib * _MIB)
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tree, image], check=True
        )
        entry = struct.pack("<B3xB3xII", 0, _LINUX, _FIRST // _SECTOR, mib * _MIB // _SECTOR)
        _write(disk, 446, entry + bytes(48) + b"\x55\xaa")
        for place in range(0, mib * _MIB, _MIB):
            _write(disk, _FIRST + place, image.read_bytes()[place : place + _MIB])
    return True


def _write(disk: Path, place: int, data: bytes) -> None:
    """Writes into one block of a VDI file, which must have it already."""
    with disk.open("r+b") as file:
        header = file.read(_SECTOR)
        blocks, first = struct.unpack_from("<II", header, 0x154)
        (size,) = struct.unpack_from("<I", header, 0x178)
        file.seek(blocks + 4 * (place // size))
        (number,) = struct.unpack("<I", file.read(4))
        file.seek(first + number * size + place % size)
        file.write(data)
