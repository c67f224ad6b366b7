"""A real systemd as process 1 of namespaces of its own, on this machine.

It sees the files of this machine, but has a `/run` and control groups of its own, and no units but
those that a test gives it. What it mounts is mounted there only.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.packages import require
from tests.support.waiting import wait_for

_PROGRAM: Final = "/lib/systemd/systemd"
#: What services need by default, or wait for: here there is nothing in them.
_TARGETS: Final = ("sysinit", "basic", "shutdown", "network-online", "time-sync", "ready")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSIDE: Final = f"""
mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs none /run &&
mkdir -p /run/systemd /run/none && cp -r "$0" /run/systemd/system &&
exec env -i PATH={_PATH} container=vmbackup LC_ALL=C.UTF-8 \
    SYSTEMD_UNIT_PATH=/run/systemd/system SYSTEMD_GENERATOR_PATH=/run/none \
    {_PROGRAM} --system --unit=ready.target --log-target=null --show-status=no
"""
_OUTSIDE: Final = (
    'echo $$ >"$0/cgroup.procs" && exec unshare --mount --propagation private --pid --fork '
    '--kill-child --cgroup --uts --ipc --mount-proc /bin/sh -c "$2" "$1"'
)


class RealSystemd:
    """One that runs: process `pid` of this machine."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def seen(self, path: Path) -> Path:
        """What is there under that path, also what is mounted there only."""
        return Path(f"/proc/{self._pid}/root", *path.parts[1:])

    def run(self, *words: str, check: bool = True) -> str:
        """What a command says that is run there, outside of all units."""
        return subprocess.run(
            ["nsenter", "--all", f"--target={self._pid}", "--", *words],
            check=check,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=120,
        ).stdout

    def unit_of(self, process: int) -> str:
        """The unit in which a process is, by the number that it has there."""
        lines = self.run("cat", f"/proc/{process}/cgroup").splitlines()
        return next(line for line in lines if line.startswith("0::")).rpartition("/")[2]

    def state_of(self, unit: str) -> str:
        """Whether a unit is active, inactive, failed, …"""
        return self.run("systemctl", "is-active", unit, check=False).strip()


@contextlib.contextmanager
def running(folder: Path, units: Mapping[str, str]) -> Iterator[RealSystemd]:
    """One that has these units, by their files' names; it ends with all that it started."""
    require(_PROGRAM, "systemd")
    own = folder / "units"
    own.mkdir()
    empty = {f"{name}.target": "[Unit]\nDefaultDependencies=no\n" for name in _TARGETS}
    for name, content in (empty | dict(units)).items():
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text(content, encoding="utf-8")
    with _control_group() as group:
        words = ["/bin/sh", "-c", _OUTSIDE, str(group), str(own), _INSIDE]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL) as outside:
            try:
                wait_for(lambda: _is_ready(outside), "systemd to run", 60)
                yield RealSystemd(psutil.Process(outside.pid).children()[0].pid)
            finally:
                outside.kill()  # with it goes its process 1, and so all others


def _is_ready(outside: "subprocess.Popen[bytes]") -> bool:
    assert outside.poll() is None, "systemd does not run"
    found = psutil.Process(outside.pid).children()
    return bool(found) and RealSystemd(found[0].pid).state_of("ready.target") == "active"


@contextlib.contextmanager
def _control_group() -> Iterator[Path]:
    """One of version 2, for root, which goes with all that is below it."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        if subprocess.run(["mount", "-t", "cgroup2", "none", place], check=False).returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("no control groups")
        stack.callback(subprocess.run, ["umount", "--lazy", place], check=False)
        group = Path(place, f"vmbackup-{Path(place).name}")
        group.mkdir()
        stack.callback(_remove, group)
        yield group


def _remove(group: Path) -> None:
    events = group / "cgroup.events"
    wait_for(lambda: "populated 0" in events.read_text(encoding="ascii"), "all to end", 60)
    for each, _, _ in os.walk(group, topdown=False):
        Path(each).rmdir()


def require_root() -> None:
    """Skips the test where namespaces cannot be made; fails it in CI."""
    require("unshare", "util-linux")
    if os.geteuid() != 0 or not shutil.which("nsenter"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root")
