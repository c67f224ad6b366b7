"""Finds flaky tests: those that failed beside the others and pass when they are run again alone.

Every run notes how its tests failed. `make test` runs those that did once more, one at a time,
with `--again`: what passes then is printed as FLAKY with its first failure, and the run fails for
it. Only a fault of VirtualBox itself (`VIRTUALBOX_FAULTS`) is forgiven, in print. With
`VMBACKUP_FLAKY=print` in the environment the run does not fail for the others, either.
"""

import os

import pytest

#: What the real VirtualBox says when it fails by itself, at no fixed moment, so that no test can
#: wait for it to be over. Only those that were seen, each with its reason.
VIRTUALBOX_FAULTS = {
    "Failed to assign the machine to the session": "VBoxSVC is still letting go of a session that "
    "no command shows any more",
}
_CACHED = "vmbackup/failures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--again",
        action="store_true",
        help="with --last-failed: a test that passes now is FLAKY, and this run fails",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and config.pluginmanager.hasplugin("cacheprovider"):
        config.pluginmanager.register(_Runs(config), "flaky-runs")


class _Runs:
    """What failed in the run before this one, and what becomes of it in this one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._again = bool(config.getoption("--again"))
        self._before: dict[str, str] = config.cache.get(_CACHED, {}) if self._again else {}
        self._failed: dict[str, str] = {}
        self._passed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = report.longreprtext
        elif report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    @property
    def _flaky(self) -> list[str]:
        return sorted(self._passed - set(self._failed)) if self._again else []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self._again:
            session.config.cache.set(_CACHED, self._failed)
        unforgiven = [test for test in self._flaky if not self._forgiven(test)]
        only_print = os.environ.get("VMBACKUP_FLAKY") == "print"
        if unforgiven and not only_print and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for test in self._flaky:
            reason = self._forgiven(test)
            said = f"forgiven, {reason}" if reason else _last_error(self._before.get(test, ""))
            terminalreporter.write_line(
                f"FLAKY {test}: {said}", red=not reason, yellow=bool(reason)
            )

    def _forgiven(self, test: str) -> str:
        text = self._before.get(test, "")
        return next((why for fault, why in VIRTUALBOX_FAULTS.items() if fault in text), "")


def _last_error(text: str) -> str:
    """The line of a failure that says what was wrong."""
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return errors[0] if errors else "its first failure is not known"
