"""The Debian packages of the test bed, unpacked beside the system and not installed into it.

So there are no services and no conflicts.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = (
    "user-mode-linux",
    "nfs-kernel-server",
    "nfs-common",
    "rpcbind",
    "samba",
    "samba-common-bin",
    "iproute2",
    "kmod",
    "e2fsprogs",
)

#: The system's own /bin, /lib and so on are links into /usr; a directory of that name laid over the
#: root would hide them.
MERGED_DIRECTORIES = ("bin", "lib", "lib64", "sbin")


class TestBedError(Exception):
    """The test bed cannot be set up on this machine; the message says why."""

    __test__ = False


def testbed_root() -> Path:
    """Where test beds keep what they fetched.

    `$VMBACKUP_TESTBED`, else `/var/cache/vmbackup-testbed`.
    """
    return Path(os.environ.get("VMBACKUP_TESTBED") or "/var/cache/vmbackup-testbed")


def obstacle() -> str:
    """Why this machine cannot run the NAS test bed; empty if it can."""
    if (os.uname().sysname, os.uname().machine) != ("Linux", "x86_64"):
        return "the NAS test bed needs Linux on x86-64"
    if os.geteuid() != 0:
        return "the NAS test bed needs root"
    if not shutil.which("apt-get"):
        return "the NAS test bed needs Debian (apt-get)"
    return ""


def fetch_packages() -> Path:
    """Unpacks the packages that the machine lacks, and returns the directory that holds them.

    May be called by several processes at a time; does nothing once complete; an interrupted run is
    begun again by the next. Takes about 20 s and 180 MB. Raises TestBedError.
    """
    reason = obstacle()
    if reason:
        raise TestBedError(reason)
    directory = testbed_root() / "nas"
    if not (directory / ".complete").exists():
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory.with_name("nas.lock")):
            if not (directory / ".complete").exists():
                _unpack(directory, _download(directory / ".downloads"))
                shutil.rmtree(directory / ".downloads")
                (directory / ".complete").touch()
    return directory


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(downloads: Path) -> list[Path]:
    (downloads / "partial").mkdir(parents=True, exist_ok=True)
    arguments = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "--download-only"]
    # The packages stay out of the system, so its package lock is not needed: another apt may be at
    # work meanwhile.
    arguments += [
        "-o",
        f"Dir::Cache::archives={downloads}",
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "Debug::NoLocking=1",
        *PACKAGES,
    ]
    completed = _apt(arguments)
    if completed.returncode:  # a fresh machine has no package lists, an old one has outdated ones
        _apt(["apt-get", "update", "-q"])
        completed = _apt(arguments)
    if completed.returncode:
        raise TestBedError(
            f"apt-get cannot download the packages of the NAS test bed:\n{completed.stdout[-2000:]}"
        )
    return sorted(downloads.glob("*.deb"))


def _apt(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        arguments,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _unpack(directory: Path, archives: list[Path]) -> None:
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", str(archive), str(directory)], check=True)
    for name in MERGED_DIRECTORIES:
        if (directory / name).is_dir():
            shutil.copytree(
                directory / name, directory / "usr" / name, symlinks=True, dirs_exist_ok=True
            )
            shutil.rmtree(directory / name)


if __name__ == "__main__":
    print(fetch_packages())
