"""A VM runs from its copy, and the unit of a real systemd that started it ends.

systemd kills then what the unit has left there (`KillMode=control-group`, its default). The disks
go on being served and filled, for which the host has no room until the units have ended.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from shared.ova.disk import Chain
from tests.simulated.conftest import Rig
from tests.simulated.test_unlisted import admin
from tests.support import real_systemd
from tests.support.packages import require
from tests.support.real_systemd import RealSystemd
from tests.support.simulated import SimulatedVm
from tests.support.simulated import disks as images
from tests.support.waiting import wait_for
from worker.backup import worker as backup

pytestmark = pytest.mark.slow

PROJECT: Final = Path(__file__).parents[2]
SHIPPED: Final = (PROJECT / "deploy/systemd/vmbackup@.service").read_text(encoding="utf-8")
ONESHOT: Final = "[Service]\nType=oneshot\n"
#: Each VM is started by a unit of that name: what is in it, and how it is ended then.
UNITS: Final = {
    "ended": (ONESHOT, ""),
    "stopped": (f"{ONESHOT}RemainAfterExit=yes\n", "stop"),
    "killed": ("[Service]\nType=exec\n", "kill --signal=KILL"),
    "vmbackup@shipped": (SHIPPED.replace("VMOWNER", "root"), "stop"),
}
USER: Final = 4242
#: Units of the host itself that do it as another user, who may read Python where root has it.
USERS: Final = dict.fromkeys(
    ("unreached", "lingering"),
    (f"{ONESHOT}User={USER}\nAmbientCapabilities=CAP_DAC_READ_SEARCH\n", ""),
)
#: What `loginctl enable-linger` leads to, without a login manager.
MANAGER: Final = f"""[Service]
Type=notify
User={USER}
Environment=XDG_RUNTIME_DIR=/run/user/{USER}
ExecStart=/lib/systemd/systemd --user --unit=basic.target
Delegate=yes
"""
MAKE_USER: Final = f"""
cp /etc/passwd /run/passwd
echo vmowner:x:{USER}:{USER}::/tmp:/bin/sh >>/run/passwd
mount --bind /run/passwd /etc/passwd
mknod -m 666 /run/fuse c 10 229
mount --bind /run/fuse /dev/fuse
mount -t tmpfs none /var/lib/systemd
"""
LET_LINGER: Final = f"""
mkdir /var/lib/systemd/linger && touch /var/lib/systemd/linger/vmowner
mkdir -p /run/user && install -d -m 700 -o {USER} -g {USER} /run/user/{USER}
systemctl start dbus.socket manager
"""


@dataclass(frozen=True)
class Units:
    """Units that start VMs, each by its name, and what is seen of those."""

    systemd: RealSystemd
    folder: Path
    vm: SimulatedVm
    user: int = 0

    def run(self, name: str, ending: str) -> None:
        """Runs one to its end. There is no room yet for what its VM fills."""
        place = str(self.folder / name)
        self.systemd.run("install", "-d", "-o", str(self.user), place)
        self.systemd.run("mount", "-t", "tmpfs", "-o", f"size=256m,uid={self.user}", "none", place)
        self.systemd.run("systemctl", "start", name)
        wait_for((self.folder / f"{name}.done").exists, f"{name} to start its VM")
        if ending:
            self.systemd.run("systemctl", *ending.split(), name)
        wait_for(lambda: self.systemd.state_of(name) in ("inactive", "failed"), f"{name} to end")

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.said").read_text(encoding="utf-8")

    def filling(self, name: str) -> Path:
        """Where the disk of a VM is filled."""
        (found,) = self.systemd.seen(self.folder / name).glob("*/filling")
        return found

    def server(self, name: str) -> int:
        said = (self.filling(name) / "progress.json").read_text(encoding="utf-8")
        return int(json.loads(said)["pid"])

    def lives(self, process: int) -> bool:
        return self.systemd.seen(Path("/proc", str(process), "exe")).exists()

    def left(self, name: str) -> bool:
        """Whether something else lives that the unit has started."""
        return self.lives(int((self.folder / f"{name}.left").read_text(encoding="ascii")))

    def served(self, name: str) -> bytes:
        """What a guest sees on its disk, but for the block in which it counts."""
        (partial,) = self.filling(name).glob("*.partial")
        disk = self.folder / name / self.filling(name).parent.name / "disks" / partial.stem
        copy = self.folder / f"{name}.vdi"
        who = ("setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups")
        self.systemd.run(*who, "cp", str(disk), str(copy))
        return content(copy)

    def require_alive(self, name: str) -> None:
        """Its disk is served, and it is filled when there is room."""
        assert self.systemd.unit_of(self.server(name)).endswith(".scope")
        assert "a unit of systemd" not in self.said(name)
        assert self.served(name) == content(self.vm.disk)
        whole = self.filling(name) / "whole.json"
        assert not whole.exists()
        self.systemd.run("mount", "-o", "remount,size=2g", str(self.folder / name))
        wait_for(whole.exists, "it to be filled")


def content(image: Path) -> bytes:
    with Chain.open([image]) as disk:
        return disk.beginning(disk.size)[images.BLOCK :]


def files_of(
    rig: Rig, units: Mapping[str, tuple[str, str]], host: str = "alpha"
) -> Iterator[tuple[str, str]]:
    """The files of those that start VMs on a host. Its configuration is written."""
    assert admin(rig, "status", host=host).exit_code == 0
    for name, (unit, _) in units.items():
        words = (sys.executable, "-P", "-m", "coordinator.admin", "--config")
        words += (str(rig.folder / f"{host}.toml"), "boot", "web01", "--network")
        boot = shlex.join((*words, "--as", name, "--to", str(rig.folder / name)))
        left = f"sleep 1000 & echo $$! >{rig.folder / name}.left"
        done = f"touch {rig.folder / name}.done"
        done += "; sleep 1000" if name == "killed" else ""
        lines = ("[Service]", "ExecStart=", f"ExecStart=/bin/sh -c '{left}; {boot} && {done}'")
        lines += (
            f"Environment=PYTHONPATH={PROJECT}",
            f"StandardError=file:{rig.folder / name}.said",
        )
        yield f"{name}.service", unit
        yield f"{name}.service.d/boot.conf", "\n".join((*lines, ""))


def backed_up(folder: Path) -> tuple[Rig, SimulatedVm]:
    """A VM with a copy."""
    real_systemd.require_root()
    require("fusermount3", "fuse3")
    rig = Rig(folder)
    vm = rig.host().make_vm("web01", random_mib=3)
    rig.look()
    assert backup.run(rig.site(engine="parallel")).done == ["web01"]
    return rig, vm


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Units]:
    """All of `UNITS` have ended."""
    rig, vm = backed_up(tmp_path_factory.mktemp("units"))
    with real_systemd.running(rig.folder, dict(files_of(rig, UNITS))) as systemd:
        units = Units(systemd, rig.folder, vm)
        for name, (_, ending) in UNITS.items():
            units.run(name, ending)
        yield units


@pytest.mark.parametrize("name", UNITS)
def test_its_disks_are_served_and_filled_when_the_unit_has_ended(ended: Units, name: str) -> None:
    assert ended.left(name) == ("KillMode=process" in UNITS[name][0])
    ended.require_alive(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="vmbackup-units."))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_it_ends_with_the_unit_of_a_user_for_whom_systemd_does_not_run(folder: Path) -> None:
    """Which a warning tells. Where it runs for them all the time, the server goes on there."""
    rig, vm = backed_up(folder)
    require("dbus-daemon", "dbus")
    files = {"manager.service": MANAGER, **dict(files_of(rig, USERS, "beta"))}
    for name in ("dbus.socket", "dbus.service"):
        files[name] = Path("/lib/systemd/system", name).read_text(encoding="utf-8")
    subprocess.run(["chown", "-R", str(USER), folder], check=True)
    with real_systemd.running(folder, files) as systemd:
        units = Units(systemd, folder, vm, USER)
        systemd.run("sh", "-euc", MAKE_USER)
        units.run("unreached", "")
        assert not units.lives(units.server("unreached"))
        assert "unless the unit has KillMode=process" in units.said("unreached")
        systemd.run("sh", "-euc", LET_LINGER)
        units.run("lingering", "")
        assert not units.left("lingering")
        units.require_alive("lingering")
