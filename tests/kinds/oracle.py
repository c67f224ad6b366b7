"""What became of a VM and what is in its copy, looked at without any code of the product."""

import hashlib
import re
import subprocess
import tarfile
from pathlib import Path

from tests.support.virtualbox import RealHost, RealVm


def disks_in(ova: Path, folder: Path, size: int) -> set[str]:
    """The SHA-256 of the first `size` bytes of each disk in an `.ova`, as qemu-img reads them."""
    folder.mkdir()
    found = set()
    with tarfile.open(ova) as archive:
        for number, member in enumerate(archive):
            if not member.name.endswith(".vmdk"):
                continue
            disk, raw = folder / f"{number}.vmdk", folder / f"{number}.raw"
            source = archive.extractfile(member)
            assert source is not None
            disk.write_bytes(source.read())
            words = ("qemu-img", "convert", "-f", "vmdk", "-O", "raw", disk, raw)
            subprocess.run(words, check=True, capture_output=True, timeout=120)
            with raw.open("rb") as file:
                found.add(hashlib.sha256(file.read(size)).hexdigest())
    return found


def imported(host: RealHost, ova: Path, name: str) -> None:
    """Has the real VirtualBox import an `.ova`, and removes what came of it.

    AssertionError if it would not. The disks get plain names: members may be called anything.
    """
    folder = host.vms / f"import-{name}"
    shown = host.run("import", ova, "--dry-run").stdout
    words = [f"--vmname={name}", f"--basefolder={folder}"]
    for unit in re.findall(r"^ *(\d+): Hard disk image", shown, re.MULTILINE):
        words += [f"--unit={unit}", f"--disk={folder / name / unit}.vmdk"]
    host.run("import", ova, "--vsys=0", *words)
    host.run("unregistervm", name, "--delete")


def standing(vm: RealVm) -> tuple[str, int]:
    """The state of a VM, and how many snapshots it has."""
    text = vm.settings.read_text(encoding="utf-8")
    return vm.info("VMState"), len(re.findall(r"<Snapshot ", text))


def listed(host: RealHost) -> set[str]:
    """The UUIDs of all VMs of a host."""
    return set(re.findall(r"\{([0-9a-f-]{36})\}$", host.run("list", "vms").stdout, re.MULTILINE))
