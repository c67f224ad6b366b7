"""Exports in the background, and what tests want to know of them."""

import hashlib
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.support.hosts import VirtualBoxHost, VirtualMachine
from tests.support.waiting import wait_for

Seen = TypeVar("Seen")
PROGRESS = "0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%\n"


def export(
    host: VirtualBoxHost, vm: VirtualMachine, target: Path, *more: str
) -> "subprocess.CompletedProcess[str]":
    """An export as the product makes it, to its end."""
    return host.run(
        "export", vm.uuid, "--ovf20", "--manifest", f"--output={target}", *more, check=False
    )


def medium_state(host: VirtualBoxHost, disk: Path | str) -> str:
    match = re.search(
        r"^State: +(.+)$", host.run("showmediuminfo", "disk", disk).stdout, re.MULTILINE
    )
    assert match
    return match[1]


#: The real VBoxManage takes ten seconds for a call now and then (one in 2000); an export may be
#: over when it answers.
_ATTEMPTS = 3


class Export:
    """An export in the background that is under way: its disk is locked, its file grows."""

    def __init__(self, host: VirtualBoxHost, vm: VirtualMachine, target: Path) -> None:
        self.host, self.vm, self.target, self.disk = host, vm, target, vm.disk
        self._begin()

    def _begin(self) -> None:
        for _ in range(_ATTEMPTS):
            self.process = self._start()
            wait_for(
                lambda: (
                    self.process.poll() is not None
                    or (size(self.target) > 100_000 and self._holds_disk())
                )
            )
            if self.process.poll() is None:
                return
            self._pass_over()
        raise AssertionError(f"{self.target}: the export was over before it was seen")

    def _pass_over(self) -> None:
        status, _, stderr = self.finish()
        assert status == 0, stderr
        self.target.unlink()

    def seen(self, look: Callable[[], Seen]) -> Seen:
        """What `look` finds while the export is under way.

        It is asked again, with another export, if this one was over when it had found it.
        """
        for _ in range(_ATTEMPTS):
            found = look()
            if self.process.poll() is None:
                return found
            self._pass_over()
            self._begin()
        raise AssertionError(f"{self.target}: the export was over before it was looked at")

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [
                self.host.vboxmanage,
                "export",
                self.vm.uuid,
                "--ovf20",
                "--manifest",
                f"--output={self.target}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )

    def _holds_disk(self) -> bool:
        return (
            "State:          locked read\n"
            in self.host.run("showmediuminfo", "disk", self.disk, check=False).stdout
        )

    def finish(self) -> tuple[int, str, str]:
        """Waits for the end: status, stdout, stderr."""
        stdout, stderr = self.process.communicate(timeout=120)
        return self.process.returncode, stdout, stderr

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Sends a signal to VBoxManage and waits for its end."""
        self.process.send_signal(number)
        return self.finish()

    def cancel(self) -> None:
        """Ends it if it still runs, and waits until VirtualBox has let go of the disk."""
        with self.process as process:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        wait_for(lambda: not self._holds_disk())


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def members(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


def check_manifest(path: Path) -> None:
    """Every member but the manifest has its line in it, in any order, and the digests are right."""
    with tarfile.open(path) as archive:
        contents = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    manifest = next(name for name in contents if name.endswith(".mf"))
    text = contents.pop(manifest).decode()
    lines = [
        f"SHA256 ({name}) = {hashlib.sha256(data).hexdigest()}" for name, data in contents.items()
    ]
    assert sorted(text.splitlines()) == sorted(lines)
