"""How long it takes from `vmbackup-admin boot` until the guest runs from its disk.

By the programs, with real VirtualBox and an empty cache where this user may empty it: a small disk,
a sparse one of 100 GiB, and in the long run one of 5 GiB with random data. The guest writes to its
disk as the first thing that it does; that VirtualBox has begun to run it is seen in the log of the
VM, for what it writes is held back.
"""

import contextlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from deploy.bench.report import Report, spread
from tests.support.fleet import Fleet, Member
from tests.support.served import shared_place
from tests.support.virtualbox import Testbed, Unavailable

AIM_SECONDS: Final = 5.0
#: MiB of each disk, and how many of them are random data.
_SIZES: Final = {"small": (24, 6), "large": (100 << 10, 6)}
#: For the long run: it takes 15 GiB of room for a while.
_FILLED: Final = {"filled": (5 << 10, 5000)}
_FEW_ROUNDS: Final = 2
_LONGEST_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.01
#: What the BIOS says when it has read the first sector of the disk.
_LOADED: Final = b"Booting from Hard Disk"


def measure(report: Report, *, rounds: int) -> None:
    """Prints the times; says so where there is no real VirtualBox."""
    report.heading(
        "Running from a copy",
        "From the command to a guest that writes at once: median (least-most).",
    )
    with contextlib.ExitStack() as stack:
        try:
            host = Testbed.set_up().host()
        except (Unavailable, subprocess.CalledProcessError) as reason:
            report.figure("left out", str(reason))
            return
        stack.callback(host.remove)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        member = Fleet(folder).add(host)
        sizes = _SIZES if rounds <= _FEW_ROUNDS else _SIZES | _FILLED
        for name, (mib, data) in sizes.items():
            vm = host.make_vm(name, mib=data + 18, random_mib=data)
            host.run("modifymedium", "disk", vm.disk, f"--resizebyte={mib << 20}")
        member.worker("run")
        place = stack.enter_context(shared_place(host))
        for name, (mib, _) in sizes.items():
            runs = [_boot(member, name, place) for _ in range(rounds)]
            _report(report, f"a disk of {mib} MiB", runs)


def _report(report: Report, what: str, runs: list[tuple[float, float, float]]) -> None:
    returned, ran, used = zip(*runs, strict=True)
    report.figure(f"{what}: until the command returns", spread(returned))
    report.figure(f"{what}: CPU of the command and its children", spread(used))
    report.figure(f"{what}: until the guest runs", spread(ran))
    report.judged(f"{what}: until the guest runs", statistics.median(ran), "s", AIM_SECONDS)


def _boot(member: Member, name: str, place: Path) -> tuple[float, float, float]:
    """Seconds until the command returned, until the guest ran, and of CPU.

    Whatever happens, nothing of it runs, or is served, afterwards.
    """
    _forget_cached()
    before, began = _used(), time.monotonic()
    child = member.start("vmbackup-admin", "boot", name, "--as", "trial", "--to", str(place))
    try:
        returned, ran = _watched(child, place / "trial", began)
        used = _used() - before
        said, _ = child.communicate()
        if child.returncode:
            raise RuntimeError(f"boot {name}: {said}")
        if not ran:
            raise RuntimeError(f"the guest of {name} does not run")
    finally:
        child.wait()
        member.admin("boot", "--discard", "trial", "--yes", expect=None)
        shutil.rmtree(place / "trial", ignore_errors=True)
    return returned, ran, used


def _watched(child: "subprocess.Popen[str]", folder: Path, began: float) -> tuple[float, float]:
    """Seconds until the command returned, and until the guest ran; 0: it did not."""
    returned = ran = 0.0
    while not (returned and ran) and time.monotonic() - began < _LONGEST_SECONDS:
        if not returned and child.poll() is not None:
            returned = time.monotonic() - began
        if not ran and _runs(folder):
            ran = time.monotonic() - began
        time.sleep(_POLL_SECONDS)
    return returned, ran


def _runs(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return _LOADED in (folder / "Logs" / "VBox.log").read_bytes()
    return False


def _used() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def _forget_cached() -> None:
    subprocess.run(["sync"], check=True)
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
