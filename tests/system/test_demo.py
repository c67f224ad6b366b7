"""The demo goes as it says, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.documents import ROOT
from tests.support.virtualbox import Testbed
from tests.support.waiting import wait_for


def demo(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.demo", *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def processes(marker: str) -> list[psutil.Process]:
    """What still runs of a demo: workers, exports, VMs, services."""
    found = []
    for process in psutil.process_iter():
        try:
            if marker in " ".join(process.cmdline()) or marker in process.environ().get(
                "VBOX_USER_HOME", ""
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.virtualbox
def test_the_demo_shows_real_backups(virtualbox_testbed: Testbed, tmp_path: Path) -> None:
    process = demo(tmp_path)
    code = process.wait(timeout=280)
    output = (tmp_path / "output").read_text()
    assert code == 0, output
    assert "The hosts are real ones" in output
    folded = " ".join(output.split())
    assert " as web01-restored {" in folded
    assert "Its guest has counted on, from " in folded
    assert list((virtualbox_testbed.folder / "hosts").glob(f"t{process.pid}-*")) == []
    assert processes(f"/hosts/t{process.pid}-") == []
    page = tmp_path / f"vmbackup-demo-{process.pid}.html"
    assert output.rstrip().endswith(f"for your browser: {page.as_uri()}")
    assert "web01@beta" in page.read_text(encoding="utf-8")


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    process = demo(tmp_path, "--simulate")
    wait_for(
        lambda: "While they run" in (tmp_path / "output").read_text(), "exports to run", seconds=120
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    output = (tmp_path / "output").read_text()
    assert "SIMULATED" in output
    assert "everything that the demo made was removed" in output
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    wait_for(lambda: processes(str(tmp_path)) == [], "what it started to be gone", seconds=10)
