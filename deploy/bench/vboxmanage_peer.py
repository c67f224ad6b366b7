"""`VBoxManage export` of the real VirtualBox, as a yardstick, of a disk that is given."""

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from deploy.bench.one_export import used_by
from tests.support.virtualbox import RealHost, Testbed, Unavailable

NAME = "VBoxManage"


def prepare(
    disk: Path, disks: Path, nas: Path, stack: ExitStack
) -> Callable[[int], Callable[[], float]]:
    """A host of the test bed: what makes the n-th export of a VM that has the disk.

    That answers the CPU seconds of VirtualBox's server, which does the work and lives on. The host
    is removed with the `stack`. Raises `FileNotFoundError` where there is no real VirtualBox.
    """
    try:
        testbed = Testbed.set_up()
    except (Unavailable, subprocess.CalledProcessError) as reason:
        raise FileNotFoundError(str(reason)) from None
    host = testbed.host()
    stack.callback(host.remove)
    for place in (disks, nas):
        host.share(place)
    target = nas / "vboxmanage.ova"

    def ready(number: int) -> Callable[[], float]:
        if not number:
            _make_vm(host, disk)
        target.unlink(missing_ok=True)
        return partial(_export, host, target)

    return ready


def _make_vm(host: RealHost, disk: Path) -> None:
    host.run(
        *("createvm", f"--name={NAME}", "--ostype=Linux_64", "--register"),
        f"--basefolder={host.vms}",
    )
    host.run("storagectl", NAME, "--name", "SATA", "--add", "sata")
    place = ("--storagectl=SATA", "--port=0", "--device=0", "--type=hdd")
    host.run("storageattach", NAME, *place, f"--medium={disk}")


def _export(host: RealHost, target: Path) -> float:
    before = used_by(host)
    host.run("export", NAME, "--ovf20", "--manifest", f"--output={target}", timeout=3600)
    after = used_by(host)
    return sum(seconds - before.get(who, 0.0) for who, seconds in after.items())
