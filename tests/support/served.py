"""A directory in which a VirtualBox host sees what is mounted later: for VMs that run from copies.

The hosts of the test bed live in a chroot. What the programs mount outside of it appears inside,
and goes there, if the directory is a shared one that is bound into the chroot.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.virtualbox import RealHost


@contextlib.contextmanager
def shared_place(host: RealHost) -> Iterator[Path]:
    """A new directory of the host."""
    place = host.folder / "served"
    place.mkdir()
    if host.testbed.installed:
        try:
            yield place
        finally:
            _unmount_below(place)
        return
    inside = Path(f"{host.testbed.folder}/virtualbox{place}")
    for words in (
        ["mount", "--bind", str(place), str(place)],
        ["mount", "--make-shared", str(place)],
        ["mount", "--bind", str(place), str(inside)],
    ):
        subprocess.run(words, check=True)
    try:
        yield place
    finally:
        _unmount_below(place)
        for bound in (inside, place):
            subprocess.run(["umount", "--lazy", bound], check=False)


def _unmount_below(place: Path) -> None:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        mounted = line.split(" ")[1].replace("\\040", " ")
        if mounted.startswith(f"{place}/"):
            subprocess.run(["umount", "--lazy", mounted], check=False)
