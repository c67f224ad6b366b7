"""A host whose power is cut: of what its programs wrote, its disk has what was flushed, and more or
less of the rest. The file systems are real ones, on a device that forgets.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.crash.doors import Doors, Kill, Point
from tests.support.forgetful_device import CUT
from tests.support.packages import require
from tests.support.virtualbox import wait_for

PROJECT: Final = Path(__file__).parents[2]
_BYTES: Final = 400 << 20
#: How file systems are made on it.
MAKING: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m0", "-Elazy_itable_init=1,lazy_journal_init=1"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
_PACKAGES: Final = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}


class Device:
    """A file system on a device that forgets, mounted at `place`."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._kind, self.place = kind, folder / "host"
        self._file, self._shown = folder / "device" / "image", folder / "shown"
        for each in (self.place, self._file.parent, self._shown):
            each.mkdir()
        with self._file.open("wb") as file:
            file.truncate(_BYTES)
        subprocess.run([*MAKING[kind], self._file], check=True, capture_output=True)
        self._switch_on()

    def lose_power(self, seed: int) -> None:
        """It is what it may be then, and is mounted again. All that used it has ended."""
        cut = self._file.with_name(CUT)
        cut.write_text(str(seed), encoding="ascii")
        self.end()
        cut.unlink()
        self._switch_on()

    def end(self) -> None:
        """It is not mounted any more."""
        wait_for(lambda: _unmounted(self.place), f"{self.place} to be unmounted", 60)
        subprocess.run(["umount", "--lazy", self._shown], check=True)
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:  # a namespace that another test made has it mounted still
            self._server.kill()
            self._server.wait(60)

    def settle(self) -> None:
        """What is there by now was there long before."""
        subprocess.run(["sync", "-f", self.place], check=True)

    def _switch_on(self) -> None:
        words = ("-m", "tests.support.forgetful_device", str(self._file), str(self._shown))
        self._server = subprocess.Popen([sys.executable, *words], cwd=PROJECT)
        wait_for((self._shown / "disk").exists, "the device", 60)
        options = "-oloop,nouuid" if self._kind == "xfs" else "-oloop"
        mount = ["mount", options, f"-t{self._kind}", self._shown / "disk", self.place]
        subprocess.run(mount, check=True)


def _unmounted(place: Path) -> bool:
    return subprocess.run(["umount", place], check=False, capture_output=True).returncode == 0


@contextmanager
def forgetful(folder: Path, kind: str) -> Iterator[Device]:
    """A device with a file system of a kind. Skips the test without root; fails it in CI."""
    require(MAKING[kind][0], _PACKAGES[kind])
    require("fusermount3", "fuse3")
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root and /dev/fuse")
    device = Device(folder, kind)
    try:
        yield device
    finally:
        device.end()


class _NthDoors(Doors):
    """Ends the process before the n-th write below `root`."""

    def __init__(self, root: Path, number: int) -> None:
        super().__init__([root], lambda _point: None, None)
        self.passed, self._number = 0, number

    def kill_at(self, point: Point) -> Kill | None:
        self.passed += 1
        return Kill(point, "before") if self.passed == self._number else None


def broken_off(work: Callable[[], object], root: Path, number: int = 0) -> int:
    """Does it in a process of its own that is killed before its n-th write below `root`.

    0: it comes to its end; how many writes that were.
    """
    source, sink = os.pipe()
    if not (child := os.fork()):
        status = 1
        try:
            doors = _NthDoors(root, number)
            doors.install()
            work()
            os.write(sink, str(doors.passed).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(sink)
    with os.fdopen(source) as said:
        passed = said.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (-9 if number else 0), f"it ended with {status}, not by the kill"
    return int(passed or 0)


def drawn_cuts(
    device: Device,
    work: Callable[[], object],
    prepare: Callable[[], object],
    count: int,
    seed: int,
) -> Iterator[str]:
    """Cuts the power at drawn moments of `work`, each time after `prepare`.

    Answers what was done, for whoever looks then at what is left.
    """
    drawn = random.Random(seed)
    prepare()
    writes = broken_off(work, device.place)
    for number in sorted(drawn.sample(range(1, writes + 1), min(count, writes))):
        prepare()
        device.settle()
        broken_off(work, device.place, number)
        loss = drawn.getrandbits(32)
        device.lose_power(loss)
        yield f"before write {number} of {writes} (seed {seed}, loss {loss})"
