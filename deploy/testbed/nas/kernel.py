"""Starting a User-Mode Linux kernel: the one command line that both kinds of test bed share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.testbed.nas.packages import TestBedError, fetch_packages, testbed_root

PROJECT = Path(__file__).resolve().parents[3]


def make_disk(job: Path, size_mib: int) -> None:
    """Makes the server's disk, empty, as a sparse file in the job directory."""
    disk = job / "disk.img"
    disk.unlink(missing_ok=True)
    subprocess.run(["truncate", "-s", f"{size_mib}M", str(disk)], check=True)
    program = shutil.which(
        "mke2fs", path=f"{fetch_packages()}/usr/sbin:/usr/sbin:/sbin:{os.environ.get('PATH', '')}"
    )
    subprocess.run([program or "mke2fs", "-qF", "-t", "ext4", "-m", "0", str(disk)], check=True)


def kernel_command(job: Path, memory_mib: int, devices: list[str]) -> list[str]:
    """The command line of a machine that boots into `guest.root`.

    `devices` are further kernel parameters (disks, networks).
    """
    packages = fetch_packages()
    unpacked = packages / "usr/bin/linux.uml"
    return [
        str(unpacked if unpacked.exists() else "linux.uml"),
        f"mem={memory_mib}M",
        *devices,
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "con=null",
        "con0=fd:0,fd:1",
        "ssl=null",
        "quiet",
        f"JOB={job}",
        f"PACKAGES={packages}",
        f"TESTBED={testbed_root()}",
        f"PYTHONPATH={PROJECT}",
        f"init={os.path.realpath(sys.executable)}",
        "--",
        "-S",
        "-m",
        "deploy.testbed.nas.guest.root",
    ]


def kernel_environment(memory_mib: int) -> dict[str, str]:
    """The environment that a kernel is started in.

    A container's small /dev/shm cannot hold the machine's memory.
    """
    shared = os.statvfs("/dev/shm")
    fits = shared.f_bavail * shared.f_frsize >= 2 * memory_mib * 2**20
    environment = {**os.environ, "TMPDIR": "/dev/shm" if fits else "/var/tmp"}
    if " amx_tile" in Path("/proc/cpuinfo").read_text(encoding="ascii"):
        environment["LD_PRELOAD"] = str(_wide_registers())
    return environment


def _wide_registers() -> Path:
    """The library without which the kernel panics on processors with AMX; made if it is not there.

    Raises TestBedError where there is no compiler.
    """
    source = Path(__file__).with_name("wide_registers.c")
    library = fetch_packages() / "wide-registers.so"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc")
        if compiler is None:
            raise TestBedError("on a processor with AMX the NAS test bed needs cc (gcc)")
        private = library.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", private, source], check=True)
        private.replace(library)
    return library


def boot_failure(job: Path) -> str:
    """What a machine that did not come up has left to read."""
    parts = [
        path.read_text(encoding="utf-8", errors="replace")[-4000:]
        for path in (job / "boot.log", job / "console")
        if path.exists()
    ]
    return "\n--- console\n".join(parts)
