"""What a web address hears of a run of this host."""

import logging
from pathlib import Path

import pytest

from shared.host.configuration import Configuration
from shared.host.errors import ExitCode
from tests.support.receivers import website
from worker.pings import Pings


def run(url: str, code: ExitCode, *lines: str) -> None:
    pings = Pings(url, "alpha")
    pings.begin()
    for line in lines:
        pings.hear(line)
    pings.end(code)


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.SOME_DEFERRED])
def test_a_run_that_went_well(code: ExitCode) -> None:
    with website() as site:
        run(site.ping, code, "a warning")
        assert site.pings == [("/uuid/start", ""), ("/uuid", "")]


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
