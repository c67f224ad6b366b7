"""Exports in the background, and what tests want to know of them."""

import hashlib
import os
import re
import signal
import subprocess
import tarfile
import time
from pathlib import Path

from tests.support.hosts import VirtualBoxHost, VirtualMachine

PROGRESS = "0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%\n"


def export(host: VirtualBoxHost, vm: VirtualMachine, target: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """An export as the product makes it, to its end."""
    return host.run("export", vm.uuid, "--ovf20", "--manifest", f"--output={target}", *more, check=False)


def medium_state(host: VirtualBoxHost, disk: Path | str) -> str:
    match = re.search(r"^State: +(.+)$", host.run("showmediuminfo", "disk", disk).stdout, re.MULTILINE)
    assert match
    return match[1]


class Export:
    """An export in the background."""

    def __init__(self, host: VirtualBoxHost, vm: VirtualMachine, target: Path, disk: Path | None) -> None:
        self.host, self.target, self.disk = host, target, disk or vm.disk
        self.process = subprocess.Popen(
            [host.vboxmanage, "export", vm.uuid, "--ovf20", "--manifest", f"--output={target}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )

    def wait_until_under_way(self) -> None:
        self.wait_for(lambda: medium_state(self.host, self.disk) == "locked read" and self.target.stat().st_size > 100_000)

    def wait_for(self, condition: "object") -> None:
        end = time.monotonic() + 60
        assert callable(condition)
        while not condition():
            assert time.monotonic() < end, self.target
            time.sleep(0.05)

    def finish(self) -> tuple[int, str, str]:
        """Waits for the end: status, stdout, stderr."""
        stdout, stderr = self.process.communicate(timeout=120)
        return self.process.returncode, stdout, stderr

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Sends a signal to VBoxManage and waits for its end."""
        self.process.send_signal(number)
        return self.finish()

    def cancel(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)
        self.wait_for(lambda: "locked read" not in self.host.run("showmediuminfo", "disk", self.disk, check=False).stdout)


def members(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


def check_manifest(path: Path) -> None:
    """Every member but the manifest has its line in it, and the digests are right."""
    with tarfile.open(path) as archive:
        contents = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    manifest = next(name for name in contents if name.endswith(".mf"))
    text = contents.pop(manifest).decode()
    lines = [f"SHA256 ({name}) = {hashlib.sha256(data).hexdigest()}" for name, data in contents.items()]
    assert text.splitlines() == lines
