"""Two programs that back up files, as a yardstick: restic and borg, on the same disk.

They keep one copy of what is equal, and read all of a disk that was written to. Their repositories
are not encrypted by borg, and are by restic, which cannot do without.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

#: The programs, and the packages of Debian.
PEERS: Final = {"restic": "restic", "borg": "borgbackup"}


def prepare(name: str, disk: Path, folder: Path, nas: Path) -> Callable[[int], Callable[[], None]]:
    """Makes a repository of this program on the `nas`: what makes the n-th backup of the disk.

    `folder` is for what it keeps on this host. Raises `FileNotFoundError` where there is none.
    """
    if not shutil.which(name):
        raise FileNotFoundError(f"there is no {name} (Debian: {PEERS[name]})")
    repository, own = nas / name, folder / name
    own.mkdir()
    if name == "restic":
        environment = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(own)}
        _run(environment, "restic", "--quiet", "--repo", repository, "init")
        words = ("restic", "--quiet", "--repo", repository, "backup", disk)
        return lambda _: partial(_run, environment, *words)
    environment = {
        "BORG_BASE_DIR": str(own),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    _run(environment, "borg", "init", "--encryption=none", repository)
    return lambda number: partial(
        _run, environment, "borg", "create", f"{repository}::{number}", disk
    )


def _run(environment: Mapping[str, str], *command: str | Path) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
