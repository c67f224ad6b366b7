"""Programs that tests need and Debian has."""

import os
import shutil
import subprocess

import pytest


def require(program: str, package: str) -> None:
    """Installs a program where it is missing and may be installed.

    Else skips the test; fails it in CI.
    """
    if not shutil.which(program) and os.geteuid() == 0 and shutil.which("apt-get"):
        for words in (
            ["update", "-q"],
            ["install", "-y", "-q", "--no-install-recommends", package],
        ):
            subprocess.run(
                ["apt-get", *words], check=False, stdin=subprocess.DEVNULL, capture_output=True
            )
    if not shutil.which(program):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"there is no {program} (Debian: {package})"
        )
