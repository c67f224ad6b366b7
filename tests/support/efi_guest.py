"""A VM with EFI whose firmware finds its guest by a variable, and whose guest counts in one.

Its disk has no program where firmware looks for one by itself: only the variables of this VM name
the guest (`deploy/testbed/virtualbox/guest/efi.c`). So it runs only where its variables are, and
they say how often it was started.
"""

import struct
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.guest_disks import fat, run
from tests.support.guest_vms import make_guest_vm
from tests.support.virtualbox import TOOLS, RealHost, RealVm

#: The namespaces of the variables of firmware, and of those of the guest.
GLOBAL: Final = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
OURS: Final = uuid.UUID(bytes_le=b"vmbackup\x8e\x39\x00\x01\x02\x03\x04\x05")
STARTS: Final = "Starts"

#: The firmware maps all addresses that the processor has. With 48 bits of them, and no pages of one
#: GiB where VirtualBox has no driver, that takes more memory than such a VM has: this one has 36.
_SETTINGS: Final = (
    *("--firmware=efi64", "--x86-long-mode=on", "--paravirtprovider=none", "--vram=8"),
    "--cpu-profile=Intel Core2 T7600 2.33GHz",
)
_LINKED: Final = """\
SECTIONS {
  . = 0;
  .all : { *(.header) *(.text*) *(.rodata*) *(.data*) *(.bss*)
           . = ALIGN(512) + 511; BYTE(0) image_end = .; }
  /DISCARD/ : { *(*) }
}
"""
_FLAGS: Final = (
    *("-c", "-Os", "-Wall", "-ffreestanding", "-fpie", "-mno-red-zone", "-fno-stack-protector"),
    *("-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
)
_SIGNATURE: Final = b"VMBK"
_FIRST_SECTOR, _SECTORS = 2048, 2048
_NAME: Final = "counting.efi"
#: Kept when the machine is off, seen by boot and runtime programs.
_ATTRIBUTES: Final = 7


@dataclass(frozen=True)
class Variable:
    """A variable of firmware."""

    name: str
    data: bytes
    owner: uuid.UUID = GLOBAL


def make_efi_vm(host: RealHost, name: str, *, counter: int, starts: int) -> RealVm:
    """A VM, stopped, as if its guest had counted so far and had been started so often."""
    vm = make_guest_vm(host, name, _disk(counter), memory_mib=256)
    host.run("modifyvm", vm.uuid, *_SETTINGS)
    host.run("modifynvram", vm.uuid, "inituefivarstore")
    store = vm.settings.with_suffix(".nvram")
    store.write_bytes(with_variables(store.read_bytes(), _variables(starts)))
    return vm


def started(vm: RealVm) -> int:
    """How often its guest has been started, by its variables. The VM must be stopped."""
    with tempfile.TemporaryDirectory(dir=vm.host.vms) as folder:
        file = Path(folder, "value")
        words = ("queryvar", f"--name={STARTS}", f"--filename={file}")
        vm.host.run("modifynvram", vm.uuid, *words)
        return int.from_bytes(file.read_bytes(), "little")


def with_variables(store: bytes, more: list[Variable]) -> bytes:
    """Variables of a machine, with more behind them."""
    at = struct.unpack_from("<H", store, 48)[0] + 28
    while store[at : at + 2] == b"\xaa\x55":
        named, size = struct.unpack_from("<II", store, at + 36)
        at = -(-(at + 60 + named + size) // 4) * 4
    added = b"".join(map(_record, more))
    assert set(store[at : at + len(added)]) == {0xFF}
    return store[:at] + added + store[at + len(added) :]


def _record(variable: Variable) -> bytes:
    name = variable.name.encode("utf-16-le") + bytes(2)
    head = struct.pack("<HBBI", 0x55AA, 0x3F, 0, _ATTRIBUTES) + bytes(28)
    head += struct.pack("<II", len(name), len(variable.data)) + variable.owner.bytes_le
    record = head + name + variable.data
    return record + b"\xff" * (-len(record) % 4)


def _variables(starts: int) -> list[Variable]:
    drive = struct.pack("<BBHIQQ", 4, 1, 42, 1, _FIRST_SECTOR, _SECTORS)
    drive += _SIGNATURE + bytes(12) + b"\x01\x01"
    path = f"\\{_NAME}".encode("utf-16-le") + bytes(2)
    path = struct.pack("<BBH", 4, 4, 4 + len(path)) + path
    devices = drive + path + b"\x7f\xff\x04\x00"
    title = "counting".encode("utf-16-le") + bytes(2)
    option = struct.pack("<IH", 1, len(devices)) + title + devices
    return [
        Variable("Boot0007", option),
        Variable("BootOrder", struct.pack("<H", 7)),
        Variable("Timeout", struct.pack("<H", 0)),
        Variable(STARTS, struct.pack("<I", starts), OURS),
    ]


def _disk(counter: int) -> bytes:
    """A disk of 3 MiB with one partition, in which the guest is, and its number."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        files = folder / "files"
        files.mkdir()
        (folder / "script").write_text(_LINKED, encoding="ascii")
        run("gcc", *_FLAGS, "-o", folder / "object", TOOLS / "guest" / "efi.c")
        linked = ("--oformat", "binary", "-o", files / _NAME, folder / "object")
        run("ld", "-T", folder / "script", *linked)
        partition = fat(folder / "partition", files, _SECTORS * 512).read_bytes()
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEF, b"\xff" * 3, _FIRST_SECTOR, _SECTORS)
    table = (bytes(440) + _SIGNATURE + bytes(2) + entry).ljust(510, b"\0") + b"\x55\xaa"
    first = table.ljust(63 * 512, b"\0") + b"TC\0\0" + struct.pack("<I", counter)
    return first.ljust(_FIRST_SECTOR * 512, b"\0") + partition + bytes(1 << 20)
