"""What a web address hears of a run of this host."""

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.host.clock import SystemClock
from shared.host.configuration import Configuration
from shared.host.errors import ExitCode, NasError
from shared.state.sessions.worker_ends import note_end
from tests.support.receivers import Website, website
from worker.pings import WITHIN_RUN, Pings, alone


def run(url: str, code: ExitCode, *lines: str) -> None:
    pings = Pings(url, "alpha")
    pings.begin()
    for line in lines:
        pings.hear(line)
    pings.end(code)


@pytest.mark.broad
@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.SOME_DEFERRED])
def test_a_run_that_went_well(code: ExitCode) -> None:
    with website() as site:
        run(site.ping, code, "a warning")
        assert site.pings == [("/uuid/start", ""), ("/uuid", "")]


@pytest.mark.broad
@pytest.mark.parametrize("code", [ExitCode.SOME_FAILED, ExitCode.NAS, ExitCode.FAILURE])
def test_a_run_that_failed_sends_its_last_lines(code: ExitCode) -> None:
    with website() as site:
        run(site.ping, code, *(f"line {number}\x1b[31m" for number in range(40)), "x" * 1000)
        (path, body) = site.pings[1]
    lines = body.splitlines()
    assert (path, len(lines), lines[0]) == ("/uuid/fail", 31, "line 11\\x1b[31m")
    assert len(lines[-2]) == 400
    assert lines[-1].startswith(f"alpha: the run ended with exit code {int(code)}: ")


@pytest.mark.parametrize("code", [ExitCode.INTERRUPTED, ExitCode.TERMINATED])
def test_a_run_that_was_stopped_says_nothing_more(code: ExitCode) -> None:
    with website() as site:
        run(site.ping, code)
        assert site.pings in ([], [("/uuid/start", "")])


@pytest.mark.broad
def test_an_address_that_does_not_answer_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    run("http://127.0.0.1:1/hunter2", ExitCode.DONE)
    assert "the ping was not heard" in caplog.text
    assert "hunter2" not in caplog.text
    run("nonsense-hunter2", ExitCode.DONE)
    assert "must begin with http:// or https://" in caplog.text
    assert "hunter2" not in caplog.text


def test_without_an_address_nothing_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    values = {"nas": {"mountpoint": tmp_path}, "host": {}, "virtualbox": {}, "backup": {}}
    for ping, said in (({}, ""), ({"url": "env:VMBACKUP_NO_PING"}, "$VMBACKUP_NO_PING is not set")):
        configuration = Configuration.model_validate({**values, "policy": {}, "ping": ping})
        pings = Pings.of(configuration)
        pings.begin()
        pings.end(ExitCode.DONE)
        assert said in caplog.text
    Pings.of(None).end(ExitCode.USAGE)


def alone_at(site: Website, folder: Path) -> tuple[Any, Configuration]:
    values = {"nas": {"mountpoint": folder}, "virtualbox": {}, "backup": {}, "policy": {}}
    host = {"node": "alpha", "state_directory": folder}
    configuration = Configuration.model_validate(
        {**values, "host": host, "ping": {"url": site.ping}}
    )
    return SimpleNamespace(configuration=lambda: configuration), configuration


@pytest.mark.broad
@pytest.mark.parametrize(
    ("own", "other", "path", "said"),
    [
        (ExitCode.DONE, ExitCode.DONE, "/uuid", ""),
        (ExitCode.DONE, ExitCode.SOME_DEFERRED, "/uuid", ""),
        (ExitCode.DONE, ExitCode.VBOXMANAGE, "/uuid/fail", "backup ended with exit code 14 at "),
        (
            ExitCode.SOME_FAILED,
            ExitCode.DONE,
            "/uuid/fail",
            "alpha: the run ended with exit code 3",
        ),
    ],
)
def test_a_worker_that_is_started_by_itself_pings_for_all(
    tmp_path: Path, own: ExitCode, other: ExitCode, path: str, said: str
) -> None:
    with website() as site:
        invocation, configuration = alone_at(site, tmp_path)
        note_end(tmp_path, configuration.nas.mountpoint, "backup", other, SystemClock())
        # its own last time does not count: it ends anew
        note_end(tmp_path, configuration.nas.mountpoint, "database", ExitCode.NAS, SystemClock())
        with alone(invocation, "database") as ended:
            ended(own)
        assert [asked for asked, _ in site.pings] == ["/uuid/start", path]
        assert said in site.pings[1][1]


@pytest.mark.broad
def test_its_error_is_sent_and_a_signal_says_nothing(tmp_path: Path) -> None:
    with website() as site:
        invocation, _ = alone_at(site, tmp_path)
        with suppress(NasError), alone(invocation, "database"):
            raise NasError("nothing is mounted", hint="mount it")
        assert site.pings[1][0] == "/uuid/fail"
        assert "nothing is mounted" in site.pings[1][1]
        with suppress(KeyboardInterrupt), alone(invocation, "database"):
            raise KeyboardInterrupt
        assert [path for path, _ in site.pings[2:]] in ([], ["/uuid/start"])


def test_a_worker_within_run_does_not_ping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WITHIN_RUN, "1")
    with website() as site:
        with alone(alone_at(site, tmp_path)[0], "database") as ended:
            ended(ExitCode.DONE)
        assert site.pings == []


@pytest.mark.broad
def test_a_run_beside_one_that_hangs_is_no_success() -> None:
    with website() as site:
        pings = Pings(site.ping)
        pings.begin()
        pings.end(ExitCode.DONE, looked=False)
        assert [path for path, _ in site.pings] == ["/uuid/start"]
        pings.begin()
        pings.end(ExitCode.NAS, looked=False)
        assert site.pings[2][0] == "/uuid/fail", "a failure is said in any case"


@pytest.mark.broad
@pytest.mark.parametrize(
    ("own_hours", "path"), [(0.2, "/uuid/fail"), (12.0, "/uuid")], ids=["hangs", "seldom"]
)
def test_a_notifier_that_does_not_end_is_a_failure(
    tmp_path: Path, own_hours: float, path: str
) -> None:
    def ended_ago(worker: str, hours: float) -> None:
        clock = SimpleNamespace(now=lambda: datetime.now(UTC) - timedelta(hours=hours))
        note_end(tmp_path, configuration.nas.mountpoint, worker, 0, clock)  # type: ignore[arg-type]

    with website() as site:
        invocation, configuration = alone_at(site, tmp_path)
        ended_ago("notifier", 13.0)
        ended_ago("database", own_hours)
        with alone(invocation, "database") as ended:
            ended(ExitCode.DONE)
        assert site.pings[1][0] == path
        assert ("does it hang" in site.pings[1][1]) == (path == "/uuid/fail")
