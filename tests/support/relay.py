"""A file that programs here read through a real NFS or SMB mount in a machine of its own.

The kernel here need not have clients of a NAS: the machine of `deploy/testbed/nas` has, and the
server. There a file is copied to the NAS as host A, and read as host B. Here a FUSE file system
shows what was read there. Questions and answers are files in the directory that both see: an empty
one in `asked`, whose name says which bytes, and one in `answered`, which appears when it is whole.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.elsewhere import PROJECT, Place, require_test_bed


class Relay:
    """The machine with the NAS, and one file on it."""

    def __init__(self, job: Path, file: Path) -> None:
        self._job, self._file = job, file

    @contextlib.contextmanager
    def shown(self, kind: str) -> Iterator[None]:
        """Within, who reads the file here reads it through the mount of that kind."""
        place = self._job / f"shown-{kind}"
        place.mkdir()
        words = (str(self._job), str(self._file), str(place), kind)
        with subprocess.Popen(_module("relayed_file", *words), cwd=PROJECT) as server:
            try:
                _wait_for((place / self._file.name).exists, server)
                subprocess.run(["mount", "--bind", place / self._file.name, self._file], check=True)
                yield
            finally:
                for mounted in (self._file, place):
                    subprocess.run(["umount", "--lazy", mounted], check=False)
                server.terminate()

    def read(self, kind: str) -> int:
        """How many bytes came through that mount."""
        return sum(each.stat().st_size for each in (self._job / "answered").glob(f"{kind}-*"))


@contextlib.contextmanager
def relay(file: Path) -> Iterator[Relay]:
    """Starts the machine, and takes a copy of the file to its NAS."""
    require_test_bed()
    job = Path(tempfile.mkdtemp(prefix="vmbackup-tests.", dir="/var/tmp"))
    for name in ("asked", "answered"):
        (job / name).mkdir()
    shutil.copy(file, job / file.name)
    place = Place("guest", memory_mib=512)
    command = place.command(job, _module("relay_answers", str(job), file.name))
    with subprocess.Popen(
        command, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    ) as machine:
        try:
            _wait_for((job / "serves").exists, machine)
            yield Relay(job, file)
        finally:
            machine.terminate()
            machine.wait()
            shutil.rmtree(job)


def _module(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"tests.support.{name}", *words]


def _wait_for(condition: Callable[[], bool], program: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while not condition():
        assert program.poll() is None, f"{program.args} ended"
        assert time.monotonic() < end, f"{program.args} is not ready"
        time.sleep(0.05)
