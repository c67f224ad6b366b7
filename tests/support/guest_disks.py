"""Disks as guests leave them: partitions and file systems made by the programs of Linux.

Their files are known by their digests, which are taken before any program of ours sees them.
"""

import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.copies import ova, tar_file, vmdk
from tests.support.packages import require

MIB = 1 << 20
GRAIN = 1 << 16
#: The first partition begins here, as all programs have it.
FIRST = MIB


def run(*command: str | Path, given: str | None = None) -> str:
    """Runs a program that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        input=given,
        stdin=None if given is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def tree(folder: Path, seed: int = 1) -> dict[str, str]:
    """Makes files of many kinds in `folder`; answers their digests by their paths."""
    chance = random.Random(seed)
    contents = {
        "hello.txt": b"hello\n",
        "empty": b"",
        "big.bin": chance.randbytes(3_000_001),
        "grüße €.txt": "grüße\n".encode() * 9000,
        "deep/er/still/x": chance.randbytes(70),
        "sparse.bin": bytes(2 * MIB) + b"here" + bytes(3 * MIB + 5),
        **{f"many/f{number:03}.txt": b"%d\n" % number for number in range(150)},
    }
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def digests(folder: Path) -> dict[str, str]:
    """The digests of all files below `folder`, by their paths."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def ext(image: Path, files: Path, kind: str = "ext4", size: int = 24 * MIB, *more: str) -> Path:
    """An ext file system with the files of a directory, all that of it."""
    require(f"mkfs.{kind}", "e2fsprogs")
    _sized(image, size)
    run(f"mkfs.{kind}", "-q", "-F", *more, "-d", files, image)
    return image


def fat(image: Path, files: Path, size: int = 24 * MIB) -> Path:
    """A FAT file system with the files of a directory."""
    require("mkfs.vfat", "dosfstools")
    require("mcopy", "mtools")
    _sized(image, size)
    run("mkfs.vfat", image)
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    run("mcopy", "-s", "-i", image, *sorted(files.iterdir()), "::/")
    return image


def ntfs(
    image: Path,
    files: Path,
    place: Path,
    size: int = 32 * MIB,
    compacted: tuple[str, int] | None = None,
) -> Path:
    """An NTFS with the files of a directory, compressed; mounted at `place` meanwhile.

    `compacted`: the name of a file that gets a reparse point, and its tag.
    """
    require("mkfs.ntfs", "ntfs-3g")
    _sized(image, size)
    run("mkfs.ntfs", "-q", "-F", "-Q", image)
    place.mkdir()
    run("ntfs-3g", image, place, "-o", "compression")
    try:
        os.setxattr(place, "system.ntfs_attrib_be", (0x800).to_bytes(4, "big"))
        run("cp", "-r", f"{files}/.", place)
        if compacted:
            name, tag = compacted
            point = tag.to_bytes(4, "little") + (16).to_bytes(2, "little") + bytes(2) + bytes(16)
            os.setxattr(place / name, "system.ntfs_reparse_data", point)
    finally:
        run("umount", place)
    return image


def _sized(image: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)


def disk(path: Path, parts: list[Path], label: str = "gpt") -> Path:
    """A disk with a partition for each image, by `sfdisk`."""
    require("sfdisk", "fdisk")
    place, script = FIRST, [f"label: {label}"]
    places = []
    for part in parts:
        size = part.stat().st_size
        script.append(f"start={place // 512}, size={size // 512}")
        places.append(place)
        place += size + MIB
    _sized(path, place + MIB)
    run("sfdisk", "-q", path, given="\n".join(script) + "\n")
    with path.open("r+b") as file:
        for at, part in zip(places, parts, strict=True):
            file.seek(at)
            file.write(part.read_bytes())
    return path


def as_copy(image: Path, *more: Path) -> bytes:
    """An `.ova` whose disks are these images, made without any code of the product."""
    disks = [_as_vmdk(each.read_bytes()) for each in (image, *more)]
    if not more:
        return ova(disks[0])
    names = [f"vm-disk{number:03}.vmdk" for number in range(1, len(disks) + 1)]
    return tar_file([("x.ovf", b"<x/>"), *zip(names, disks, strict=True)])


def _as_vmdk(data: bytes) -> bytes:
    pieces = {
        place // GRAIN: data[place : place + GRAIN].ljust(GRAIN, b"\0")
        for place in range(0, len(data), GRAIN)
        if data[place : place + GRAIN].strip(b"\0")
    }
    return vmdk(pieces, -(-len(data) // GRAIN))


def lose_block(copy: bytearray, grain: int) -> None:
    """Damages the compressed block number `grain` of the one disk in an `.ova`."""
    for at in range(0, len(copy), 512):
        number, length = int.from_bytes(copy[at : at + 8], "little"), copy[at + 8 : at + 12]
        packed = int.from_bytes(length, "little")
        if number == grain * 128 and 0 < packed <= 2 * GRAIN and copy[at + 12] == 0x78:
            copy[at + 12 + packed // 2] ^= 0xFF
            return
    raise AssertionError(f"there is no block {grain}")


def of_linux(kind: str, image: Path, files: Path, place: Path) -> Path:
    """XFS or btrfs, with the files of a directory."""
    require(f"mkfs.{kind}", {"xfs": "xfsprogs", "btrfs": "btrfs-progs"}[kind])
    _sized(image, 320 * MIB if kind == "xfs" else 128 * MIB)
    place.mkdir()
    run(f"mkfs.{kind}", "-q", image)
    with mounted(image, place, "loop"):
        run("cp", "-r", f"{files}/.", place)
    return image


@contextmanager
def mounted(source: Path, place: Path, options: str) -> Iterator[None]:
    """A file system, mounted by the kernel."""
    run("mount", "-o", options, source, place)
    try:
        yield
    finally:
        run("umount", place)
