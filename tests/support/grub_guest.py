"""A VM whose guest is not ours: GRUB, as Debian has it.

It reads its configuration and its modules from a file system on its disk, and makes a stroke in its
environment block there, one a second, which it has read from there first.
"""

import re
import struct
import tempfile
from pathlib import Path
from typing import Final

from tests.support.guest_disks import ext, run
from tests.support.guest_vms import bytes_of_disk, make_guest_vm
from tests.support.packages import require
from tests.support.virtualbox import RealHost, RealVm

_PARTS: Final = Path("/usr/lib/grub/i386-pc")
#: What it needs to read the rest from its disk.
_INSIDE: Final = ("biosdisk", "part_msdos", "ext2", "normal")
_ON_DISK: Final = ("echo", "loadenv", "serial", "sleep", "terminal", "true")
_CONFIGURATION: Final = """\
serial --unit=0
terminal_output serial
load_env
while true; do
  set strokes="${strokes}I"
  save_env strokes
  echo -n .
  sleep 1
done
"""
_FIRST_SECTOR, _SIZE = 2048, 6 << 20
_BLOCK: Final = re.compile(rb"# GRUB Environment Block\n(?:#[^\n]*\n)*strokes=(I+)\n")


def make_grub_vm(host: RealHost, name: str, made: int) -> RealVm:
    """A VM, stopped, as if its guest had made so many strokes."""
    require(str(_PARTS / "boot.img"), "grub-pc-bin")  # and grub-mkimage, which others may have
    with tempfile.TemporaryDirectory() as folder:
        disk = _disk(Path(folder), made)
    return make_guest_vm(host, name, disk, memory_mib=32)


def strokes(vm: RealVm) -> int:
    """How many its guest has made in its life. The VM must be stopped."""
    found = _BLOCK.findall(bytes_of_disk(vm))
    assert len(found) == 1
    return len(found[0])


def _disk(folder: Path, made: int) -> bytes:
    files = folder / "files"
    modules = files / "boot" / "grub" / "i386-pc"
    modules.mkdir(parents=True)
    for name in _with_what_they_need(*_ON_DISK):
        (modules / f"{name}.mod").write_bytes((_PARTS / f"{name}.mod").read_bytes())
    for path in _PARTS.glob("*.lst"):
        (modules / path.name).write_bytes(path.read_bytes())
    run("grub-editenv", modules.parent / "grubenv", "set", f"strokes={'I' * made}")
    (modules.parent / "grub.cfg").write_text(_CONFIGURATION, encoding="ascii")
    image = folder / "core.img"
    words = ("-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", image)
    run("grub-mkimage", "-d", _PARTS, *words, *_INSIDE)
    partition = ext(folder / "partition", files, "ext2", _SIZE).read_bytes()
    entry = struct.pack(
        "<B3sB3sII", 0x80, b"\0\2\0", 0x83, b"\xff" * 3, _FIRST_SECTOR, _SIZE // 512
    )
    table = (_PARTS / "boot.img").read_bytes()[:446] + entry + bytes(48) + b"\x55\xaa"
    return (table + image.read_bytes()).ljust(_FIRST_SECTOR * 512, b"\0") + partition


def _with_what_they_need(*names: str) -> set[str]:
    lines = (_PARTS / "moddep.lst").read_text(encoding="ascii").splitlines()
    needs = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
    found, ahead = set[str](), list(names)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += needs[name]
    return found
