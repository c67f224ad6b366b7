"""nas-guest: a command in a machine that has a NAS and its clients, all in one kernel."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.testbed.nas.configuration import DEFAULT_MOUNTS, Machine, Mounts
from deploy.testbed.nas.kernel import boot_failure, kernel_command, kernel_environment, make_disk
from deploy.testbed.nas.packages import TestBedError

DESCRIPTION = """Runs COMMAND in a guest with an NFS server, an SMB server and their clients.
The mounts are /mnt/nfs-X (NFS 4.2), /mnt/nfs3-X (NFS 3) and /mnt/smb-X (SMB 3.1.1) for each
client X. Same paths and programs as outside; writes are lost, but for those to the job directory.
In the guest, `nas` cuts and heals networks and stops the server. The status is that of COMMAND;
124: time limit; 98: no guest; 99: the guest did not come up."""

BOOT_LIMIT_SECONDS = 120
NO_GUEST = 98
NOT_UP = 99


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What to run and in which guest."""

    command: Sequence[str]
    directory: str
    clients: Sequence[str] = ("a", "b", "c")
    memory_mib: int = 1024
    disk_mib: int = 512
    limit_seconds: float = 300
    mounts: Mounts = DEFAULT_MOUNTS


#: A process-number space of its own: when its first process ends, so does every process of the
#: guest.
_CONTAINED: Final = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--fork", "--pid", "--kill-child", "--mount-proc"),
)


def run_in_guest(what: GuestRun, job: Path) -> int:
    """Boots a guest, runs the command with its output copied to ours, and returns its status.

    Raises TestBedError.

    `job` is a directory that both sides see; the guest and all that runs in it end when this
    process ends.
    """
    for name in ("ready", "status"):
        (job / name).unlink(missing_ok=True)
    for name in ("output", "boot.log"):
        (job / name).write_bytes(b"")
    machine = Machine(
        role="all",
        name="nas",
        mounts=what.mounts,
        clients=tuple(what.clients),
        command=tuple(what.command),
        directory=what.directory,
        limit_seconds=what.limit_seconds,
    )
    machine.save(job)
    make_disk(job, what.disk_mib)
    command = [*_CONTAINED, *kernel_command(job, what.memory_mib, [f"ubda={job}/disk.img"])]
    with (job / "console").open("wb") as console:
        kernel = subprocess.Popen(
            command,
            env=kernel_environment(what.memory_mib),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
    try:
        _follow(kernel, job, what.limit_seconds)
    finally:
        kernel.kill()
        kernel.wait()
        (job / "disk.img").unlink()
    try:
        return int((job / "status").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return NO_GUEST


def _follow(kernel: "subprocess.Popen[bytes]", job: Path, limit_seconds: float) -> None:
    """Copies the output until the guest ends or its time is over."""
    deadline = time.monotonic() + BOOT_LIMIT_SECONDS
    ready = False
    with (job / "output").open("rb") as output:
        while time.monotonic() < deadline:
            ended = kernel.poll() is not None or (job / "status").exists()
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
            if ended:
                return
            if not ready and (job / "ready").exists():
                ready = True
                deadline = time.monotonic() + limit_seconds + 30
            time.sleep(0.05)
    print(
        "nas-guest: the guest does not end" if ready else "nas-guest: the guest does not boot",
        file=sys.stderr,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nas-guest", description=DESCRIPTION)
    parser.add_argument(
        "--memory-mib",
        type=int,
        default=1024,
        help="memory of the guest; VirtualBox hosts in it need 3072",
    )
    parser.add_argument("--disk-mib", type=int, default=512, help="size of the server's disk")
    parser.add_argument(
        "--limit", type=float, default=300, metavar="SECONDS", help="time limit of the command"
    )
    parser.add_argument("--clients", default="a b c", help="names of the clients")
    parser.add_argument("--nfs-options", default=DEFAULT_MOUNTS.nfs_options)
    parser.add_argument("--smb-options", default=DEFAULT_MOUNTS.smb_options)
    parser.add_argument("--job", type=Path, help="the directory that both sides see; kept")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    return parser.parse_args()


def main() -> int:
    """The command."""
    options = _options()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    what = GuestRun(
        command=options.command,
        directory=os.getcwd(),
        clients=options.clients.split(),
        memory_mib=options.memory_mib,
        disk_mib=options.disk_mib,
        limit_seconds=options.limit,
        mounts=Mounts(nfs_options=options.nfs_options, smb_options=options.smb_options),
    )
    job = Path(options.job or tempfile.mkdtemp(prefix="nas-guest.", dir="/var/tmp")).resolve()
    job.mkdir(parents=True, exist_ok=True)
    try:
        status = run_in_guest(what, job)
        if status in (NO_GUEST, NOT_UP):
            print(boot_failure(job), file=sys.stderr)
    except TestBedError as error:
        print(f"nas-guest: {error}", file=sys.stderr)
        status = NO_GUEST
    finally:
        if not options.job:
            shutil.rmtree(job)
    return status


if __name__ == "__main__":
    sys.exit(main())
