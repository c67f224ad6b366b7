"""System calls and helpers that every part of the guest needs.

Nothing but the standard library, and little of that: boot time counts.
"""

import ctypes
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

MS_BIND = 0x1000
MS_NOATIME = 0x400
CLONE_NEWUTS = 0x04000000
_POWER_OFF = 0x4321FEDC
_MNT_DETACH = 2
# x86-64, the only architecture of the package
_PIVOT_ROOT = 155
_FINIT_MODULE = 313

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raises OSError if a C function said -1."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, options: str = "", flags: int = 0) -> None:
    """Mounts onto a directory that is made if it is not there.

    Raises OSError that names what was mounted.
    """
    os.makedirs(target, exist_ok=True)
    result = libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode())
    check(result, f"mount {kind} {source} on {target} with {options!r}")


def pivot_root(new: str, old: str) -> None:
    """Makes `new` the root, and shows the old one at `old`."""
    check(libc.syscall(_PIVOT_ROOT, new.encode(), old.encode()), "pivot_root")


def detach(path: str) -> None:
    """Takes a mount out of sight; what still uses it keeps it."""
    check(libc.umount2(path.encode(), _MNT_DETACH), f"unmount {path}")


def bind_file(source: str, target: str) -> None:
    """Makes one file appear in the place of another."""
    check(
        libc.mount(source.encode(), target.encode(), None, MS_BIND, None),
        f"bind {source} on {target}",
    )


def load_module_file(path: Path) -> None:
    """Loads one kernel module that needs no other."""
    with path.open("rb") as file:
        check(libc.syscall(_FINIT_MODULE, file.fileno(), b"", 0), f"load {path}")


def enter_namespace(path: str) -> None:
    """Moves this process into the namespace that `path` names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        check(libc.setns(descriptor, 0), f"setns {path}")
    finally:
        os.close(descriptor)


def new_host_name(name: str) -> None:
    """Gives this process and its children a host name of their own."""
    check(libc.unshare(CLONE_NEWUTS), "unshare")
    write("/proc/sys/kernel/hostname", name)


def write(path: str | Path, text: str) -> None:
    """Writes a file, or a setting of the kernel that looks like one."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def power_off() -> None:
    """Ends the machine."""
    os.sync()
    libc.reboot(_POWER_OFF)


def wait_for_port(address: str, port: int, *, limit_seconds: float) -> None:
    """Waits until something listens there. Raises OSError at the end of the time."""
    end = time.monotonic() + limit_seconds
    while True:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


class BootLog:
    """A log of the boot in the job directory: readable from outside when the machine hangs."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def note(self, text: str) -> None:
        """Adds a line with the seconds since the kernel started."""
        seconds = Path("/proc/uptime").read_text(encoding="ascii").split()[0]
        self._file.write(f"[{seconds}] {text}\n")
        self.flush()

    def note_exception(self) -> None:
        """Adds the traceback of the exception that is being handled."""
        traceback.print_exc(file=self._file)
        self.flush()

    def flush(self) -> None:
        """Makes the log visible outside: the shared file system writes back late."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def run(self, *arguments: str, given: str | None = None) -> int:
        """Runs a command with its output in the log, and returns its status.

        Not every step matters to every kernel.
        """
        completed = subprocess.run(
            arguments,
            input=given or "",
            stdout=self._file,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if completed.returncode:
            self.note(f"status {completed.returncode} of {' '.join(arguments)}")
        return completed.returncode

    def require(self, *arguments: str, given: str | None = None) -> None:
        """Runs a command without which the machine is of no use. Raises RuntimeError."""
        if self.run(*arguments, given=given):
            raise RuntimeError(f"failed: {' '.join(arguments)}")


def fail(job: Path) -> None:
    """Tells the outside that the machine did not come up."""
    traceback.print_exc(file=sys.stderr)
    write(job / "status", "99")
