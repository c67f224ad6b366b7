"""The appliance file.

A tar with the .ovf first, a stream-optimised VMDK a disk, and the manifest last, without end
blocks.
"""

import hashlib
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from tests.support.simulated import disks
from tests.support.simulated.settings import escape, quoted
from tests.support.simulated.state import Medium

_GRAIN = 1 << 16
#: The manifest has no line for a file with one of these in its name, and a slash for a backslash
#: (measured).
_LEFT_OUT = re.compile(r"[\x00-\x1f:()]")
_BACKSLASH = "\\"
_SECTOR = 512
_VMDK = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_SCHEMA = "http://schemas.dmtf.org"
#: The number of the first SCSI controller in an .ovf.
_FIRST = 3


@dataclass
class System:
    """One machine of an appliance.

    `name` is that of the machine, `title` what the appliance calls it, `slots` where its disks are.
    """

    name: str
    title: str
    settings: str
    memory: int
    slots: list[str]
    chains: list[list[Medium]]
    description: str
    kinds: dict[str, str]

    @property
    def scsi(self) -> list[str]:
        """Its SCSI controllers, for an .ovf: those of SAS are that, too."""
        wanted = ("lsilogic", "lsilogicsas")
        return [name for name, kind in self.kinds.items() if kind.lower() in wanted]


@dataclass
class Plan:
    """What an export has to write. `version` of OVF: 1 or 2.

    `digest`: SHA1, SHA256, or empty for no manifest.
    """

    target: str
    systems: list[System]
    version: int
    digest: str

    def disk_names(self) -> list[str]:
        """One a disk, numbered through the appliance."""
        names = [system.name for system in self.systems for _ in system.chains]
        return [f"{name}-disk{number:03d}.vmdk" for number, name in enumerate(names, 1)]


def write(file: BinaryIO, plan: Plan, *, manifest: bool) -> Iterator[float]:
    """Writes the appliance; yields after each piece how far it is, in percent of the disks."""
    base = os.path.basename(plan.target).removesuffix(".ova")
    version = plan.version
    lines = [_member(file, f"{base}.ovf", _ovf(plan).encode(), plan.digest, version)]
    chains = [chain for system in plan.systems for chain in system.chains]
    total = sum(len(list(_numbers(chain))) for chain in chains) or 1
    done = 0
    for name, chain in zip(plan.disk_names(), chains, strict=True):
        start = file.tell()
        file.write(_tar_header(name, 0, 0o660, version))  # the size is known at the end only
        digest = hashlib.new(plan.digest or "sha256")
        size = 0
        for piece in _vmdk(chain):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            if len(piece) > _GRAIN:
                done += 1
            yield 100 * done / total
        file.write(bytes(-size % _SECTOR))
        end = file.tell()
        file.seek(start)
        file.write(_tar_header(name, size, 0o660, version))
        file.seek(end)
        if not _LEFT_OUT.search(name):
            lines.append(
                f"{plan.digest} ({name.replace(_BACKSLASH, '/')}) = {digest.hexdigest()}\n"
            )
    if plan.digest and manifest:
        lines.sort(
            key=lambda line: line.rpartition(" ")[2]
        )  # the real one's order is no order either
        _member(file, f"{base}.mf", "".join(lines).encode(), plan.digest, version)


def write_beside(file: BinaryIO, plan: Plan) -> Iterator[float]:
    """Writes the appliance as an .ovf, with each disk in a file beside it, which must not exist.

    Yields as `write` does.
    """
    file.write(_ovf(plan).encode())
    file.flush()
    for name, chain in zip(
        plan.disk_names(),
        [chain for system in plan.systems for chain in system.chains],
        strict=True,
    ):
        with open(f"{os.path.dirname(plan.target)}/{name}", "xb") as disk:
            for piece in _vmdk(chain):
                disk.write(piece)
                yield 0
    yield 100


def _numbers(chain: list[Medium]) -> set[int]:
    return {block for medium in chain for block in disks.allocated(medium.location)}


def _member(file: BinaryIO, name: str, data: bytes, digest: str, version: int) -> str:
    """Writes a small member; its line of the manifest."""
    file.write(_tar_header(name, len(data), 0o640, version) + data + bytes(-len(data) % _SECTOR))
    return f"{digest} ({name}) = {hashlib.new(digest or 'sha256', data).hexdigest()}\n"


def _tar_header(name: str, size: int, mode: int, version: int) -> bytes:
    """A ustar header with the owner that VirtualBox writes."""
    header = struct.pack("<100s8s8s8s", name.encode(), b"%07o" % mode, b"%07o" % 0, b"%07o" % 0)
    header += (
        b"%011o\0%011o\0" % (size, int(time.time())) + b" " * 8 + b"0" + bytes(100) + b"ustar\00000"
    )
    header += struct.pack(
        "<32s32s8s8s", b"vboxovf%d0" % version, b"vbox_v7.2.22r175245", b"%07o" % 0, b"%07o" % 0
    )
    header = header.ljust(_SECTOR, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _vmdk(chain: list[Medium]) -> Iterator[bytes]:
    """Header and descriptor, one piece a block of the disk with its grains (stored, not compressed:
    fast, of a known size), end.
    """
    sectors = chain[0].mib * disks.BLOCK // _SECTOR
    identity = struct.unpack("<I", os.urandom(4))[0]
    text = f"# Disk DescriptorFile\nversion=1\nCID={identity:08x}\nparentCID=ffffffff\n"
    text += (
        f'createType="streamOptimized"\nRDONLY {sectors} SPARSE '
        f'"disk.vmdk"\nddb.uuid.image="{chain[0].uuid}"\n'
    )
    header = struct.pack(
        "<4sIIQQQQIQQQ", b"KDMV", 3, 0x30001, sectors, _GRAIN // _SECTOR, 1, 20, 512, 0, 0, 128
    )
    yield header.ljust(_SECTOR, b"\0") + text.encode().ljust(127 * _SECTOR, b"\0")
    for block, data in disks.blocks(chain):
        grains = []
        for offset in range(0, disks.BLOCK, _GRAIN):
            stored = zlib.compress(data[offset : offset + _GRAIN], 0)
            grain = (
                struct.pack("<QI", (block * disks.BLOCK + offset) // _SECTOR, len(stored)) + stored
            )
            grains.append(grain + bytes(-len(grain) % _SECTOR))
        yield b"".join(grains)
    yield bytes(_SECTOR)


def read_vmdk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The grains of such a VMDK: their place on the disk in bytes, and their content.

    Raises zlib.error or struct.error.
    """
    place = 128 * _SECTOR
    while True:
        sector, size = struct.unpack_from("<QI", data, place)
        if size == 0:
            return
        yield sector * _SECTOR, zlib.decompress(data[place + 12 : place + 12 + size])
        place += 12 + size + -(12 + size) % _SECTOR


def _ovf(plan: Plan) -> str:
    version = plan.version
    files, listed, systems = [], [], []
    names = iter(plan.disk_names())
    number = 0
    for system in plan.systems:
        items = []
        for port, chain in enumerate(system.chains):
            number += 1
            files.append(f'    <File ovf:id="file{number}" ovf:href={quoted(next(names))}/>\n')
            capacity = chain[0].mib * disks.BLOCK
            disk = (
                f'ovf:capacity="{capacity}" ovf:diskId="vmdisk{number}" '
                f'ovf:fileRef="file{number}" ovf:format="{_VMDK}"'
            )
            listed.append(f'    <Disk {disk} vbox:uuid="{chain[0].uuid}"/>\n')
            controller = system.slots[port].rsplit("-", 2)[0]
            # measured: disks on SCSI and on SAS all hang on the last one, at its first place
            hangs = controller in system.scsi
            parent = _FIRST + len(system.scsi) - 1 if hangs else 1
            items.append(
                f"      <StorageItem>\n"
                f"        <sasd:AddressOnParent>{0 if hangs else port}</sasd:AddressOnParent>\n"
                f"        <sasd:HostResource>ovf:/disk/vmdisk{number}</sasd:HostResource>\n"
                f"        <sasd:Parent>{parent}</sasd:Parent>\n"
                f"      </StorageItem>\n"
            )
        systems.append(_system_text(system, "".join(items)))
    names_of = (
        f'xmlns="{_SCHEMA}/ovf/envelope/{version}" xmlns:ovf="{_SCHEMA}/ovf/envelope/{version}" '
        f'xmlns:rasd="{_SCHEMA}/rasd" xmlns:sasd="{_SCHEMA}/sasd"'
    )
    head = (
        f'<?xml version="1.0"?>\n<Envelope ovf:version="{version}.0" {names_of} '
        f'xmlns:vbox="http://www.virtualbox.org/ovf/machine">\n'
    )
    references = (
        f"  <References>\n{''.join(files)}  </References>\n  "
        f"<DiskSection>\n{''.join(listed)}  </DiskSection>\n"
    )
    return f"{head}{references}{''.join(systems)}</Envelope>\n"


def _system_text(system: System, items: str) -> str:
    start = system.settings.index("<Machine ")
    state_change = system.settings[start:].split('lastStateChange="')[1].split('"')[0]
    return (
        f"  <VirtualSystem ovf:id={quoted(system.title)}>\n    "
        f"<Name>{escape(system.title)}</Name>\n{_annotation(system)}"
        f"    <VirtualHardwareSection>\n{_controllers(system)}{items}"
        f"    </VirtualHardwareSection>\n"
        f'    <vbox:Machine ovf:required="false" version="1.20-linux" '
        f'name={quoted(system.title)} lastStateChange="{state_change}"'
        f' memory="{system.memory}">\n{_attachments(system)}    </vbox:Machine>\n  '
        f"</VirtualSystem>\n"
    )


def _annotation(system: System) -> str:
    if not system.description:
        return ""
    text = f"<Annotation>{escape(system.description)}</Annotation>"
    return f"    <AnnotationSection>\n      {text}\n    </AnnotationSection>\n"


def _controllers(system: System) -> str:
    return "".join(
        f"      <Item>\n        <rasd:InstanceID>{number}</rasd:InstanceID>\n"
        f"        <rasd:ResourceSubType>{system.kinds[name].lower()}</rasd:ResourceSubType>\n"
        f"        <rasd:ResourceType>6</rasd:ResourceType>\n      </Item>\n"
        for number, name in enumerate(system.scsi, _FIRST)
    )


def _attachments(system: System) -> str:
    text = ""
    for slot, chain in zip(system.slots, system.chains, strict=True):
        controller, port, device = slot.rsplit("-", 2)
        image = f'<Image uuid="{{{chain[0].uuid}}}"/>'
        text += (
            f"      <StorageController name={quoted(controller)}>\n        <AttachedDevice "
            f'type="HardDisk" port="{port}" device="{device}">'
        )
        text += f"{image}</AttachedDevice>\n      </StorageController>\n"
    return text
