"""Programs that tests need and Debian has."""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.testbed.nas.packages import testbed_root


def require(program: str, package: str) -> None:
    """Installs a program, or a file by its path, where it is missing and may be installed.

    Else skips the test; fails it in CI.
    """
    if not _there(program) and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(program, package)
    if not _there(program):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"there is no {program} (Debian: {package})"
        )


def _there(program: str) -> bool:
    return Path(program).is_file() if os.path.isabs(program) else bool(shutil.which(program))


def _install(program: str, package: str) -> None:
    """One at a time: several tests may want something, and apt turns the second one away."""
    with locked(testbed_root(), "apt.lock"):
        install = ["install", "-y", "-q", "--no-install-recommends", package]
        # a fresh machine has no package lists, an old one has outdated ones
        for words in (install, ["update", "-q"], install):
            if not _there(program):
                subprocess.run(
                    ["apt-get", "-o", "DPkg::Lock::Timeout=300", *words],
                    check=False,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                )


@contextlib.contextmanager
def locked(directory: Path, name: str = ".lock") -> Iterator[None]:
    """Within, no other test uses that directory of the test bed, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
