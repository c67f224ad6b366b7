"""VMs of every kind that an export engine must handle, on a real VirtualBox host.

And what is asked of their copies.
"""

import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.export.delta import DeltaPlan
from shared.export.exporter import Exporter, VBoxManageExporter
from shared.export.parallel import ParallelExporter
from shared.host.clock import SystemClock
from shared.host.processes import SubprocessRunner
from shared.ova.compression import Codec
from shared.virtualbox.inventory import Machine, take_inventory
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.virtualbox import RealHost

MIB = 2**20
FREE, ZERO = 0xFFFFFFFF, 0xFFFFFFFE


@dataclass
class Bench:
    """A host, and engines on it."""

    host: RealHost

    def __post_init__(self) -> None:
        self.vboxmanage = VBoxManage(str(self.host.vboxmanage), SubprocessRunner(), 120)

    def machine(self, uuid: str) -> Machine:
        return take_inventory(self.vboxmanage, self.host.home, time.sleep)[uuid]

    def parallel(
        self, codec: Codec | None = None, cores: int = 2, plan: DeltaPlan | None = None
    ) -> ParallelExporter:
        scratch = self.host.folder / "scratch"
        return ParallelExporter(
            self.vboxmanage, SystemClock(), scratch=scratch, cores=cores, codec=codec, plan=plan
        )

    def exporter(self, name: str) -> Exporter:
        return self.parallel() if name == "parallel" else VBoxManageExporter(self.vboxmanage)

    def create(
        self,
        name: str,
        *options: str,
        controllers: tuple[tuple[str, str], ...] = (("SATA", "sata"),),
    ) -> str:
        """A VM without disks; its UUID."""
        created = self.host.run(
            "createvm",
            f"--name={name}",
            "--ostype=Linux_64",
            "--register",
            f"--basefolder={self.host.vms}",
        ).stdout
        uuid = re.findall(r"^UUID: (\S+)$", created, re.MULTILINE)[0]
        self.host.run("modifyvm", uuid, "--memory=64", *options)
        for controller, bus in controllers:
            self.host.run("storagectl", uuid, "--name", controller, "--add", bus)
        return uuid

    def disk(
        self,
        uuid: str,
        content: bytes,
        *,
        place: tuple[str, int, int] = ("SATA", 0, 0),
        variant: str = "Standard",
    ) -> Path:
        """Attaches a new VDI with this content."""
        number = len(list(self.host.vms.glob(f"{uuid}-*.vdi")))
        raw, path = self.host.vms / f"{uuid}.raw", self.host.vms / f"{uuid}-{number}.vdi"
        raw.write_bytes(content)
        self.host.run("convertfromraw", raw, path, "--format=VDI", f"--variant={variant}")
        raw.unlink()
        controller, port, device = place
        words = [
            f"--storagectl={controller}",
            f"--port={port}",
            f"--device={device}",
            "--type=hdd",
            f"--medium={path}",
        ]
        self.host.run("storageattach", uuid, *words)
        return path

    def leaves(self, uuid: str) -> dict[str, str]:
        """The disks of a VM by their place: the UUID of the image that it writes to."""
        text = self.host.run("showvminfo", uuid, "--machinereadable").stdout
        attached = {chain[0].uuid for chain in self.machine(uuid).chains}
        return {
            f"{a}-{b}-{c}": image
            for a, b, c, image in re.findall(
                r'^"(.+)-ImageUUID-(\d+)-(\d+)"="(.+)"$', text, re.MULTILINE
            )
            if image in attached
        }

    def raw(self, medium: str, target: Path) -> Path:
        """What VirtualBox itself reads from a disk."""
        self.host.run("clonemedium", "disk", medium, target, "--format=RAW")
        self.host.run("closemedium", "disk", target)
        return target

    def digests(self, uuid: str) -> dict[str, str]:
        """SHA-256 of the content of each disk of a VM, read by VirtualBox, by its place."""
        return {
            place: _digest(self.raw(medium, self.host.folder / "content.raw"))
            for place, medium in self.leaves(uuid).items()
        }

    def restore(self, ova: Path, name: str) -> str:
        """Imports a copy as VirtualBox does; the new VM's UUID."""
        self.host.run(
            "import",
            ova,
            "--vsys=0",
            f"--vmname={name}",
            f"--basefolder={self.host.vms}",
            "--options=keepallmacs",
        )
        return next(vm.uuid for vm in self.vboxmanage.list_vms() if vm.name == name)

    def settings(self, uuid: str) -> list[str]:
        """What VirtualBox says of a VM, without what differs between any two VMs.

        Names, UUIDs, paths, times.
        """
        text = self.host.run("showvminfo", uuid, "--machinereadable").stdout
        unlike = re.compile(
            r'^(?:"?\w*(?:UUID|uuid)|name=|CfgFile|SnapFldr|LogFldr|NvramFile|VMStateChangeTime|rec_screen_dest_filename|".*/)'
        )
        lines = (re.sub(r'="/.*"$', '="(file)"', line) for line in text.splitlines())
        return [line for line in lines if not unlike.match(line) and "ImageUUID" not in line]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    path.unlink()
    return digest


def texts(seed: int, size: int) -> bytes:
    """Bytes that compress to about half, with a gap of zeros in the middle third."""
    source = random.Random(seed)
    third = size // 3
    line = b"".join(
        b"%d %s\n" % (number, source.randbytes(9).hex().encode()) for number in range(third // 22)
    )
    return (line[:third].ljust(2 * third, b"\0") + line[::-1])[:size].ljust(size, b"\0")


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def write_blocks(image: Path, blocks: dict[int, bytes | int]) -> None:
    """Puts blocks of 1 MiB, or ZERO, into a VDI file as VirtualBox does when a guest writes and
    discards.
    """
    descriptor = os.open(image, os.O_RDWR)
    header = os.pread(descriptor, 512, 0)
    map_offset, data_offset = struct.unpack_from("<2I", header, 0x154)
    (allocated,) = struct.unpack_from("<I", header, 0x184)
    for number, content in blocks.items():
        entry = content
        if isinstance(content, bytes):
            os.pwrite(descriptor, content.ljust(MIB, b"\0"), data_offset + allocated * MIB)
            entry, allocated = allocated, allocated + 1
        os.pwrite(descriptor, struct.pack("<I", entry), map_offset + 4 * number)
    os.pwrite(descriptor, struct.pack("<I", allocated), 0x184)
    os.close(descriptor)


def change(image: Path, block: int, size: int = 4096) -> None:
    """Changes so many bytes in the middle of one of the allocated blocks of a VDI file."""
    descriptor = os.open(image, os.O_RDWR)
    (data_offset,) = struct.unpack("<I", os.pread(descriptor, 4, 0x158))
    os.pwrite(descriptor, os.urandom(size), data_offset + block * MIB + MIB // 2)
    os.close(descriptor)


def unpack(ova: Path, folder: Path) -> list[Path]:
    """The disks of a copy, as files."""
    with tarfile.open(ova) as archive:
        disks = [member for member in archive if member.name.endswith(".vmdk")]
        for number, member in enumerate(disks):
            source = archive.extractfile(member)
            assert source is not None
            with (folder / f"{number}.vmdk").open("wb") as target:
                shutil.copyfileobj(source, target)
    return [folder / f"{number}.vmdk" for number in range(len(disks))]


def qemu(*words: str | Path, seconds: float = 300) -> None:
    """Runs `qemu-img`; AssertionError with what it says if it finds a fault."""
    done = subprocess.run(
        ["qemu-img", *map(str, words)], capture_output=True, text=True, check=False, timeout=seconds
    )
    assert done.returncode == 0, done.stdout + done.stderr


def same(image: Path, raw: Path) -> bool:
    """Whether `qemu-img` reads this content from an image.

    Zeros at the end do not count: a VMDK holds whole grains.
    """
    done = subprocess.run(
        ["qemu-img", "compare", "-F", "raw", image, raw],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


Build = Callable[[Bench], str]


def dynamic(bench: Bench) -> str:
    uuid = bench.create("dynamic")
    bench.disk(uuid, texts(1, 20 * MIB))
    return uuid


def fixed(bench: Bench) -> str:
    uuid = bench.create("fixed")
    bench.disk(uuid, texts(2, 12 * MIB), variant="Fixed")
    return uuid


def chain_of_three(bench: Bench) -> str:
    """Each kind of block over each other kind."""
    uuid = bench.create("chain")
    base = {number: noise(number, MIB) for number in (1, 2, 3, 4, 5, 6, 40)}
    bench.disk(uuid, b"".join(base.get(number, bytes(MIB)) for number in range(48)))
    for layer in (
        {1: ZERO, 2: noise(12, MIB), 7: noise(17, MIB), 8: ZERO, 9: noise(19, 1000)},
        {
            2: ZERO,
            3: noise(23, MIB),
            7: ZERO,
            8: noise(28, MIB),
            9: noise(29, MIB // 2),
            47: noise(1, 1),
        },
    ):
        bench.host.run("snapshot", uuid, "take", f"s{len(layer)}")
        write_blocks(Path(bench.machine(uuid).chains[0][0].location), layer)
    return uuid


def many_disks(bench: Bench) -> str:
    """Two controllers, places out of order, sizes that are no whole megabytes, EFI with variables,
    a name and texts with everything.
    """
    odd = 'IDE "x" & ü'
    options = (
        "--firmware=efi",
        "--description=a \"quoted\" <x> & 'y'\nsecond line",
        "--cpus=2",
        "--nic1=nat",
        "--macaddress1=080027ABCDEF",
    )
    uuid = bench.create("Büro & Co <y>", *options, controllers=(("SATA", "sata"), (odd, "ide")))
    bench.host.run("modifynvram", uuid, "inituefivarstore")
    bench.disk(uuid, texts(3, 5 * MIB + 512), place=("SATA", 3, 0))
    bench.disk(uuid, noise(4, 3 * MIB + 1024), place=(odd, 1, 1), variant="Fixed")
    bench.disk(uuid, texts(5, 40 * MIB - 512), place=("SATA", 1, 0))
    bench.host.run(
        "storageattach",
        uuid,
        f"--storagectl={odd}",
        "--port=0",
        "--device=0",
        "--type=dvddrive",
        "--medium=emptydrive",
    )
    bench.host.run("snapshot", uuid, "take", "before")
    return uuid


def no_disk(bench: Bench) -> str:
    return bench.create("diskless")


def incompressible(bench: Bench) -> str:
    uuid = bench.create("noise")
    bench.disk(uuid, noise(6, 70 * MIB))
    return uuid


def empty(bench: Bench) -> str:
    uuid = bench.create("empty")
    bench.disk(uuid, bytes(64 * MIB))
    return uuid


KINDS: tuple[Build, ...] = (
    dynamic,
    fixed,
    chain_of_three,
    many_disks,
    no_disk,
    incompressible,
    empty,
)
