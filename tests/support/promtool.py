"""Debian's promtool, unpacked beside the system and not installed into it."""

import fcntl
import functools
import os
import subprocess
from pathlib import Path

from deploy.testbed.nas.packages import testbed_root


@functools.cache
def promtool() -> Path:
    """The program; fetched once (19 MB). Raises `subprocess.CalledProcessError` if it cannot be."""
    directory = testbed_root() / "promtool"
    program = directory / "usr/bin/promtool"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / ".complete").exists():
            _fetch(directory)
            (directory / ".complete").touch()
    return program


def _fetch(directory: Path) -> None:
    for archive in directory.glob("*.deb"):
        archive.unlink()
    download = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", "prometheus"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    if subprocess.run(download, cwd=directory, env=environment, check=False).returncode:
        subprocess.run(["apt-get", "update", "-q"], env=environment, check=True)
        subprocess.run(download, cwd=directory, env=environment, check=True)
    (archive,) = directory.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(directory)], check=True)
    archive.unlink()
