"""Builders for copies.

OVAs like VirtualBox's, sidecars, whole VM directories, and a NAS door that breaks off at a chosen
operation.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.copies.copy_files import NasFiles
from shared.copies.names import Suffix
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import SideFile

UUID = "a5bb7405-6bce-41d1-b207-357465b29724"
OVF = (
    '<?xml version="1.0"?>\n<Envelope '
    'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/2"><References>{}</References></Envelope>\n'
)
#: What other readers want of it.
DESCRIPTOR = b"# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n"


def tar_header(name: str, size: int, *, kind: bytes = b"0") -> bytes:
    """A ustar header with a right checksum."""
    digits = f"{size:011o}\0".encode() if size < 8**11 else b"\x80" + size.to_bytes(11)
    header = bytearray(512)
    header[0:100] = name.encode("utf-8", "surrogateescape").ljust(100, b"\0")
    header[100:108], header[124:136], header[156:157], header[257:265] = (
        b"0000640\0",
        digits,
        kind,
        b"ustar\x0000",
    )
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def tar_file(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar file as VirtualBox writes it: no zero blocks at the end."""
    return b"".join(
        tar_header(name, len(data)) + data + bytes(-len(data) % 512) for name, data in members
    )


def manifest(members: Sequence[tuple[str, bytes]], algorithm: str = "SHA256") -> bytes:
    """A manifest that covers `members`."""
    return "".join(
        f"{algorithm} ({name}) = {hashlib.new(algorithm, data).hexdigest()}\n"
        for name, data in members
    ).encode()


def ova(
    disk: bytes = b"disk" * 5000,
    *,
    disk_name: str = "vm-disk001.vmdk",
    algorithm: str = "SHA256",
    listed: bool = True,
) -> bytes:
    """A whole OVA with one disk; `listed` False leaves the disk out of the manifest."""
    members = [
        ("x.ovf", OVF.format(f'<File ovf:id="file1" ovf:href="{disk_name}"/>').encode()),
        (disk_name, disk),
    ]
    return tar_file([*members, ("x.mf", manifest(members if listed else members[:1], algorithm))])


def vmdk(grains: dict[int, bytes], capacity_grains: int = 2048, *, filler: bool = False) -> bytes:
    """A stream-optimised disk whose grains (64 KiB each, by number) are `grains`."""
    header = bytearray(512)
    struct.pack_into(
        "<4sIIQQQQIQQQB4sH",
        header,
        0,
        b"KDMV",
        3,
        0x30001,
        capacity_grains * 128,
        128,
        1,
        20,
        512,
        0,
        2**64 - 1,
        128,
        0,
        b"\n \r\n",
        1,
    )
    out = bytearray(header) + DESCRIPTOR.ljust(127 * 512, b"\0")
    directory = [0] * -(-capacity_grains // 512)
    for table in range(len(directory)):
        entries = [0] * 512
        for number in sorted(grains):
            if number // 512 == table:
                if filler:
                    out += struct.pack("<QII", 0, 0, 4).ljust(512, b"\0")
                entries[number % 512] = len(out) // 512
                packed = zlib.compress(grains[number])
                out += struct.pack("<QI", number * 128, len(packed)) + packed
                out += bytes(-len(out) % 512)
        if any(entries):
            out += struct.pack("<QII", 4, 0, 1).ljust(512, b"\0")
            directory[table] = len(out) // 512
            out += struct.pack("<512I", *entries)
    length = -(-len(directory) * 4 // 512)
    out += struct.pack("<QII", length, 0, 2).ljust(512, b"\0")
    place = len(out) // 512
    out += struct.pack(f"<{len(directory)}I", *directory).ljust(length * 512, b"\0")
    footer = bytearray(header)
    struct.pack_into("<Q", footer, 56, place)
    out += struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + footer + bytes(512)
    return bytes(out)


def sidecar(data: bytes, stamp: str = "20261122T203800Z-17", **changes: Any) -> Sidecar:
    """The sidecar of an `.ova` with these bytes."""
    values: dict[str, Any] = {
        "stamp": stamp,
        "claim": int(stamp.split("-")[1]),
        "vm": "web",
        "uuid": UUID,
        "node": "alpha",
        "host": "alpha.example",
        "virtualbox": "7.2.22r175245",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "fingerprint": {"state": "poweroff"},
        "started": f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}"
        f"T{stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}Z",
        "finished": "2026-11-22T20:39:00Z",
        "duration_seconds": 60.0,
        "engine": "VBoxManage",
    }
    return Sidecar(**{**values, **changes})


def put_copy(
    directory: Path,
    stamp: str,
    data: bytes = b"bytes of an ova",
    *,
    sides: Mapping[Suffix, bytes] | None = None,
    **changes: Any,
) -> Sidecar:
    """A published copy; `sides` are the files beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    made = sidecar(
        data,
        stamp,
        files={suffix: side_file(side) for suffix, side in (sides or {}).items()},
        **changes,
    )
    for suffix, side in (sides or {}).items():
        (directory / f"{stamp}.{suffix}").write_bytes(side)
    (directory / f"{stamp}.ova").write_bytes(data)
    os.utime(
        directory / f"{stamp}.ova", (made.moment.timestamp(),) * 2
    )  # written when its stamp says
    (directory / f"{stamp}.json").write_bytes(made.render())
    (directory / f"{stamp}.sha256").write_bytes(made.checksum_lines())
    return made


def side_file(data: bytes) -> SideFile:
    """What a sidecar says of a side file with these bytes."""
    return SideFile(len(data), hashlib.sha256(data).hexdigest())


class PowerCutError(BaseException):
    """Ends a test's "process" the way a power cut does: nothing catches it."""


class BreakingFiles(NasFiles):
    """A NAS door on which the operation number `breaks_at` is the last.

    Cut off just before it is done, or just after.
    """

    def __init__(self, breaks_at: int, *, after: bool = False) -> None:
        super().__init__()
        self.breaks_at = breaks_at
        self.after = after
        self.done: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value
        return self._counted(name, value)

    def _counted(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            last = len(self.done) == self.breaks_at
            self.done.append(name)
            if last and not self.after:
                raise PowerCutError(name)
            try:
                result = operation(*arguments)
            except OSError:
                if last:
                    raise PowerCutError(name) from None
                raise
            if last:
                if name == "create":
                    os.close(result)
                raise PowerCutError(name)
            return result

        return run


class LinklessFiles(NasFiles):
    """A NAS door behind which files have one name, as on most SMB servers."""

    def link(self, source: Path, target: Path, name: str) -> None:
        """Refuses, as an SMB mount does."""
        raise OSError(95, "Operation not supported", name)


class TwoFileSystems(LinklessFiles):
    """A NAS door behind which source and target are on different file systems."""

    def move(self, source: Path, target: Path, name: str) -> None:
        """Refuses, as the kernel does."""
        raise OSError(18, "Invalid cross-device link", name)


class BreakingLinklessFiles(BreakingFiles, LinklessFiles):
    """Breaks where there are no links."""


class BreakingTwoFileSystems(BreakingFiles, TwoFileSystems):
    """Both."""
