"""Mounts for the table, where this process may make them (root).

Bind mounts, and file systems in files. All are taken away again.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

#: File systems of a NAS that are tried, and the command that makes each.
KINDS: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
_SIZE: Final = {"ext4": 320 << 20, "xfs": 320 << 20, "btrfs": 320 << 20}


def possible() -> bool:
    """Whether this process may mount."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory(prefix="vmbackup-mount.") as folder:
        done = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
        return (
            done.returncode == 0 and subprocess.run(["umount", folder], check=False).returncode == 0
        )


def available(kind: str) -> bool:
    """Whether a file system of that kind can be made and mounted here."""
    if not possible() or not shutil.which(KINDS[kind][0]):
        return False
    with tempfile.TemporaryDirectory(prefix="vmbackup-mount.") as folder:
        mounts = Mounts()
        try:
            mounts.file_system(kind, Path(folder, "image"), Path(folder, "place"))
        except subprocess.CalledProcessError:
            return False
        mounts.end()
        return True


class Mounts:
    """What was mounted, in order."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []

    def bind(self, source: Path, target: Path) -> None:
        """Shows a directory at a second place."""
        self._mount("--bind", source, target)

    def file_system(
        self, kind: str, image: Path, target: Path, options: str = "", size: int = 0
    ) -> None:
        """Makes a file system in the file `image` and mounts it, with further `options`.

        Of the usual size, if none is given.

        Raises CalledProcessError where there is none of that kind.
        """
        with image.open("wb") as file:
            file.truncate(size or _SIZE[kind])
        subprocess.run([*KINDS[kind], image], check=True, capture_output=True)
        self._mount(f"-oloop{options}", image, target)

    def memory(self, target: Path, size: int) -> None:
        """Mounts a file system of `size` bytes that lies in memory."""
        self._mount("-ttmpfs", Path("tmpfs"), target, f"-osize={size}")

    def _mount(self, option: str, source: Path, target: Path, *more: str) -> None:
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", option, *more, source, target], check=True, capture_output=True)
        self._mounted.append(target)

    def unmount(self, target: Path) -> None:
        """Takes one away."""
        subprocess.run(["umount", target], check=True, capture_output=True)
        self._mounted.remove(target)

    def end(self) -> None:
        """Takes all away, the last one first."""
        for target in reversed(self._mounted[:]):
            self.unmount(target)
