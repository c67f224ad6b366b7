"""Runs tests where the parts they need are.

In a guest that has real NFS and SMB mounts, or in namespaces where a cluster may be built.

A test says where it belongs, and is otherwise an ordinary test, with fixtures and parameters,
chosen by name, `-k` or `-m`:

    pytestmark = pytest.mark.nas("guest")  # /mnt/nfs-a, /mnt/smb-c, …: see deploy/testbed/nas
    pytestmark = pytest.mark.nas("guest", memory_mib=3072)
    pytestmark = pytest.mark.nas("cluster")      # may use deploy.testbed.nas.cluster

All chosen tests of one place run there in one go, by a pytest of its own, started when the first of
them has its turn. Their reports come back while they run, so that each test is reported as if it
had run here. Where the test bed cannot be, they are skipped with the reason; in CI (environment
variable `CI`) that is an error.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.testbed.nas.cluster import CONTAINED
from deploy.testbed.nas.packages import TestBedError, fetch_packages, obstacle
from tests.support.packages import require

PROJECT = Path(__file__).resolve().parents[2]

#: Names the file that takes the reports; set where tests run elsewhere, and nowhere else.
REPORTS = "VMBACKUP_TEST_REPORTS"

#: What tests there are told of the environment here.
PASSED_ON = ("CI", "VMBACKUP_PROVE", "VMBACKUP_PROVE_SECONDS", "VMBACKUP_SEED")

#: All tests of one place together: a hang must end before the patience of whoever started them.
LIMIT_SECONDS = 1800
_END_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Place:
    """Where a test belongs."""

    kind: str
    memory_mib: int = 1024

    @classmethod
    def of(cls, item: pytest.Item) -> "Place | None":
        """The place of a test; None if it is at home here."""
        marker = item.get_closest_marker("nas")
        if marker is None or REPORTS in os.environ:
            return None
        return cls(*marker.args, **marker.kwargs)

    def command(self, job: Path, command: Sequence[str]) -> list[str]:
        """The command that runs `command` in this place."""
        variables = [
            "env",
            f"{REPORTS}={job}/reports",
            *(f"{name}={os.environ[name]}" for name in PASSED_ON if os.environ.get(name)),
        ]
        if self.kind == "cluster":
            return [*CONTAINED, *variables, *command]
        options = [
            "--job",
            str(job),
            "--memory-mib",
            str(self.memory_mib),
            "--limit",
            str(LIMIT_SECONDS),
        ]
        return [
            "setpriv",
            "--pdeathsig",
            "TERM",
            sys.executable,
            "-m",
            "deploy.testbed.nas.launcher",
            *options,
            "--",
            *variables,
            *command,
        ]


class Batch:
    """The tests of one place, running there."""

    def __init__(self, place: Place, names: Sequence[str]) -> None:
        self._job = Path(tempfile.mkdtemp(prefix="vmbackup-tests.", dir="/var/tmp"))
        self._output = self._job / "pytest.log"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
        }
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                place.command(self._job, command),
                cwd=PROJECT,
                env={**environment, "PYTHONPATH": str(PROJECT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def reports_of(self, name: str, config: pytest.Config) -> list[pytest.TestReport]:
        """Waits for a test to end there, and returns its reports.

        Raises AssertionError if it was never run to its end.
        """
        while True:
            ended = self._process.poll() is not None
            reports = [report for report in self._reports() if report["nodeid"] == name]
            if any(report["when"] == "teardown" for report in reports):
                return [_received(report, config) for report in reports]
            if ended:
                tail = self._output.read_text(encoding="utf-8", errors="replace")[-6000:]
                raise AssertionError(
                    f"the test bed ended (status {self._process.returncode}) before this test "
                    f"did:\n{tail}"
                )
            time.sleep(0.1)

    def _reports(self) -> list[dict[str, object]]:
        try:
            complete = (self._job / "reports").read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in complete]

    def end(self) -> None:
        """Ends the place with whatever still runs in it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except (
                subprocess.TimeoutExpired
            ):  # `unshare` ignores that signal; when it is killed, all in its namespace is
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._job)


def _received(data: dict[str, object], config: pytest.Config) -> pytest.TestReport:
    """A report as it was. JSON has no tuples, and pytest wants the place of a skip to be one."""
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(
        config=config, data=data
    )
    if isinstance(report.longrepr, list):
        report.longrepr = tuple(report.longrepr)
    return report


_BATCHES = pytest.StashKey[dict[Place, Batch]]()


class ReportWriter:
    """The other end: writes the reports of tests that run elsewhere."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        # Closed each time: the file system that is shared with the outside writes back late
        # otherwise.
        with open(os.environ[REPORTS], "a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_BATCHES] = {}
    if REPORTS in os.environ:
        config.pluginmanager.register(ReportWriter(config))


def pytest_unconfigure(config: pytest.Config) -> None:
    for batch in config.stash[_BATCHES].values():
        batch.end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    place = Place.of(item)
    if place is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    # Like a fixture that sets up the place: what goes wrong here is an error of the test, or a
    # reason to skip it.
    call = pytest.CallInfo.from_call(
        lambda: _run(place, item), when="setup", reraise=(pytest.exit.Exception, KeyboardInterrupt)
    )
    reports = (
        call.result if call.excinfo is None else [pytest.TestReport.from_item_and_call(item, call)]
    )
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run(place: Place, item: pytest.Item) -> list[pytest.TestReport]:
    batches = item.config.stash[_BATCHES]
    if place not in batches:
        require_test_bed()
        chosen = [other for other in item.session.items if Place.of(other) == place]
        for needed in {each.args for other in chosen for each in other.iter_markers("needs")}:
            require(*needed)  # there is no network in there
        batches[place] = Batch(place, [other.nodeid for other in chosen])
    return batches[place].reports_of(item.nodeid, item.config)


def require_test_bed() -> None:
    """Sets up what such places need; skips the test where that cannot be. An error in CI."""
    if os.environ.get("CI"):
        fetch_packages()
        return
    reason = obstacle()
    if not reason:
        try:
            fetch_packages()
        except TestBedError as error:
            reason = str(error)
    if reason:
        pytest.skip(reason)
