"""A guest that runs and is backed up: paused while its disks are cloned, or from a snapshot.

Of the real VirtualBox, with its VM on an XFS of its own: how long the guest stands still, by
VirtualBox's clock, and what the backup costs. Needs root.

    python -m deploy.bench.pauses [--mib 512] [--rounds 3]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.bench.costs import cost
from deploy.bench.report import Report, spread
from shared.copies import sidecar_files
from tests.ordinary.mounts import Mounts, available
from tests.support.fleet import Fleet, Member
from tests.support.virtualbox import RealHost, Testbed, Unavailable

#: How long a guest may stand still whose disk has few extents.
_PAUSE_SECONDS: Final = 0.5
#: The second pause finds the clones of the first one: only what changed since is read.
_TURNS: Final = (("live", "live"), ("pause", "pause"), ("pause again", "pause"))


class _Host(RealHost):
    """A host whose VMs are on a file system of its own."""

    def __init__(self, testbed: Testbed, disks: Path) -> None:
        self._vms = disks / "vms"
        self._vms.mkdir()
        super().__init__(testbed, f"bench-{os.getpid()}")

    @property
    def vms(self) -> Path:
        """Where its VMs are."""
        return self._vms


def measure(report: Report, *, mib: int, rounds: int) -> None:
    """Prints both by turns; says so where it cannot be measured."""
    report.heading(
        "A guest that runs",
        f"{mib} MiB of random data on XFS, copied to another one, by turns; paused, or live.",
    )
    if not available("xfs"):
        report.figure("left out", "it needs root, and xfsprogs")
        return
    try:
        testbed = Testbed.set_up()
    except (Unavailable, subprocess.CalledProcessError) as reason:
        report.figure("left out", str(reason))
        return
    with tempfile.TemporaryDirectory() as folder, _mounted(Path(folder), mib) as (disks, nas):
        host = _Host(testbed, disks)
        try:
            for place in (disks, nas):
                host.share(place)
            _measure(report, host, disks, nas, mib, rounds)
        finally:
            host.remove()


@contextmanager
def _mounted(folder: Path, mib: int) -> Iterator[tuple[Path, Path]]:
    mounts = Mounts()
    try:
        for name in ("disks", "nas"):
            image = folder / f"{name}.image"
            mounts.file_system("xfs", image, folder / name, "", (6 * mib + 800) << 20)
        yield folder / "disks", folder / "nas"
    finally:
        mounts.end()


def _measure(report: Report, host: RealHost, disks: Path, nas: Path, mib: int, rounds: int) -> None:
    member = Fleet(disks, nas=nas / "backups").add(host)
    vm = host.make_vm("server", mib=mib + 8, random_mib=mib)
    vm.start()
    member.worker("vmfind")
    stood_still: list[float] = []
    for _ in range(rounds):
        for name, method in _TURNS:
            settings = {"running": method, "changed": "auto", "engine": "parallel"}
            member.configure("backup", keep_last=1, **settings)
            found = cost(lambda: _backup(member), disks, nas)
            copy = member.fleet.copies("server")[-1]
            made = sidecar_files.read(copy.directory, copy.stamp)
            if method == "pause" and made.not_paused:
                raise SystemExit(f"it was not paused: {made.not_paused}")
            stood_still += [made.paused_seconds] if method == "pause" else []
            report.figure(name, f"{found}, sent {made.wire.sent / 1e6:.1f}" if made.wire else "")
    vm.stop()
    report.figure("stood still", spread(stood_still))
    report.judged("stood still at most", max(stood_still), "s", _PAUSE_SECONDS)


def _backup(member: Member) -> None:
    ran = member.run("vmbackup-worker", "backup", "--vm", "server", "--now", timeout=3600)
    if ran.status:
        raise SystemExit(f"the backup failed:\n{ran.stdout}{ran.stderr}")


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bench.pauses", description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the disk")
    parser.add_argument("--rounds", type=int, default=3, help="backups of each kind")
    given = parser.parse_args()
    measure(Report(), mib=given.mib, rounds=given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
