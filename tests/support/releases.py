"""Releases of this program from its own history.

As a tree with its tests, and as the wheel that a host would have installed.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[2]
#: The first release that other hosts may still run while one is updated.
FIRST: Final = "027e4e6"
_PROGRAMS: Final = {
    "vmbackup-worker": "worker.cli",
    "vmbackup-admin": "coordinator.admin",
    "vmbackup-lock": "coordinator.lock",
}


@dataclass(frozen=True)
class Release:
    """A commit of the history.

    `tree` is its source, `packages` where its wheel is installed, `bin` its programs.
    """

    tree: Path
    packages: Path
    bin: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes Python import this release with its tests, and nothing of the present one."""
        return {"PYTHONPATH": os.pathsep.join((str(self.packages), str(self.tree)))}


def install(commit: str, folder: Path) -> Release:
    """Builds the wheel of a commit from the history, and installs it below `folder`, without its
    dependencies: those are ours.

    AssertionError, with what to do, where the history does not reach so far.
    """
    release = Release(folder / "tree", folder / "packages", folder / "bin")
    for path in (release.tree, release.bin):
        path.mkdir(parents=True)
    kept = subprocess.run(
        ["git", "-C", PROJECT, "archive", "--format=tar", commit], capture_output=True, check=False
    )
    assert kept.returncode == 0, (
        f"the history has no commit {commit}: `git fetch --unshallow` "
        f"({kept.stderr.decode().strip()})"
    )
    subprocess.run(["tar", "-x", "-C", release.tree], input=kept.stdout, check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    built = subprocess.run(
        [*pip, "--target", release.packages, release.tree],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, f"the wheel of {commit} cannot be built: {built.stderr}"
    for name, module in _PROGRAMS.items():
        found = f"import sys\nsys.path.insert(0, {str(release.packages)!r})\n"
        (release.bin / name).write_text(
            f"#!{sys.executable} -P\n{found}from {module} import main\nsys.exit(main())\n"
        )
        (release.bin / name).chmod(0o755)
    return release
