"""What became of a VM and what is in its copy, looked at without any code of the product."""

import hashlib
import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.virtualbox import RealHost, RealVm
from tests.support.vm_settings import settings_of


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
            subprocess.run(words, check=True, capture_output=True, timeout=900)
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


@dataclass(frozen=True)
class Standing:
    """The state of a VM, since when, how many snapshots it has, and all of its settings."""

    state: str
    since: str
    snapshots: int
    settings: frozenset[str]


def standing(vm: RealVm) -> Standing:
    """How a VM is now. Whole seconds of its time: VBoxSVC forgets the rest."""
    snapshots = len(re.findall(r"<Snapshot ", vm.settings.read_text(encoding="utf-8")))
    since = vm.info("VMStateChangeTime").partition(".")[0]
    return Standing(vm.info("VMState"), since, snapshots, frozenset(settings_of(vm.settings)))


#: Words of settings that reach into the host, which a restore must not bring by itself.
_REACHING = (
    "/Teleporter",
    "'hostMode'",
    "Forwarding",
    "SharedFolder",
    "/NAT [('localhost-reachable', 'true')]",
)


def unlike(before: frozenset[str], restored: RealVm) -> list[str]:
    """The settings that a restored VM should have of these, and has not; or has, and must not."""
    after = settings_of(restored.settings)
    words = ("'RawFile'", "'HostPipe'", "/Teleporter")
    reaching = [line for line in after if any(word in line for word in words)]
    lost = [line for line in before - after if not any(word in line for word in _REACHING)]
    return sorted(reaching + lost)


def first_bytes(vm: RealVm, place: str, size: int) -> str:
    """The SHA-256 of the first bytes that a guest reads of the disk at this place."""
    command = [vm.host.vboxmanage, "mediumio", f"--disk={vm.info(place)}", "cat", f"--size={size}"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=900, check=True
    )
    return hashlib.sha256(done.stdout).hexdigest()


def left_out(sidecar: Path) -> str:
    """What a copy says of itself that it has not."""
    return "\n".join(json.loads(sidecar.read_text(encoding="utf-8"))["left_out"])


def listed(host: RealHost) -> set[str]:
    """The UUIDs of all VMs of a host."""
    return set(re.findall(r"\{([0-9a-f-]{36})\}$", host.run("list", "vms").stdout, re.MULTILINE))
