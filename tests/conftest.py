"""Fixtures that any test may ask for."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import settings

from shared.host.processes import Completed, SubprocessRunner
from shared.nas import probe, server_copy_probe
from tests.support import drawing
from tests.support.virtualbox import RealHost, Testbed, Unavailable

pytest_plugins = ["tests.support.elsewhere", "tests.support.flaky"]

# No test depends on how fast the machine is; one that hangs meets the limit of pytest.
settings.register_profile("any machine", deadline=None)
#: `make unit`: a look at each property. Every other run of the tests looks longer.
settings.register_profile("quick", deadline=None, max_examples=15)
settings.register_profile("CI", deadline=None, max_examples=40)
settings.load_profile("CI" if os.environ.get("CI") else "any machine")


# A shell that starts tests in the background has ^C ignored, and all that is started in them would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what the table of ordinary life did (`tests/ordinary`), whichever process ran it.

    And how what failed is drawn again.
    """
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"drawn in this run: {drawing.TOLD}")
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "table" and getattr(report, "when", "") == "call":
                    terminalreporter.write_line(str(value))


@pytest.fixture(scope="session")
def virtualbox_testbed() -> Testbed:
    """Where real VirtualBox hosts can be made.

    Skips the test where there can be none; fails it in CI.
    """
    try:
        return Testbed.set_up()
    except Unavailable as reason:
        if os.environ.get("CI"):
            pytest.fail(str(reason))
        pytest.skip(str(reason))


@pytest.fixture
def make_virtualbox_host(virtualbox_testbed: Testbed) -> Iterator[Callable[[], RealHost]]:
    """Makes real VirtualBox hosts that end with the test."""
    hosts: list[RealHost] = []

    def make() -> RealHost:
        hosts.append(virtualbox_testbed.host())
        return hosts[-1]

    yield make
    for host in hosts:
        host.remove()


@pytest.fixture
def virtualbox_host(make_virtualbox_host: Callable[[], RealHost]) -> RealHost:
    """A real VirtualBox host that ends with the test."""
    return make_virtualbox_host()


@pytest.fixture
def hang_up_heeded() -> Iterator[None]:
    """SIGHUP does what it usually does, also when the tests were started with `nohup`.

    Programs that they start inherit that.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def probe_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The NAS, a directory that always answers, is asked without a process of its own.

    That takes a millisecond instead of twenty. `tests/unit/nas/test_mount.py` has
    the process, and so has every test of whole programs.
    """
    run = SubprocessRunner.run

    def run_here(self: SubprocessRunner, arguments: Sequence[str], **more: Any) -> Completed:
        programs = (one for one in (probe, server_copy_probe) if one.__file__ in arguments)
        program = next(programs, None)
        if program is None:
            return run(self, arguments, **more)
        asked = arguments[list(arguments).index(program.__file__) + 1 :]
        said = os.fsencode(program.main(*asked)).decode("utf-8", "backslashreplace")
        return Completed(tuple(arguments), 0, said, "")

    monkeypatch.setattr(SubprocessRunner, "run", run_here)
