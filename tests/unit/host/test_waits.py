"""What is waited for is said once that takes long, to whoever looks, and to nobody else."""

import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from shared.host import waits
from shared.host.logs import NOTICE
from shared.host.waits import pausing, shown_by, waiting
from tests.support.waiting import wait_for


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What was said, by a voice that speaks after a moment."""
    heard: list[str] = []
    monkeypatch.setattr(waits, "SILENT_SECONDS", 0.001)
    caplog.set_level(NOTICE)
    with shown_by(heard.append):
        yield heard


def test_what_and_how_long_at_most_and_that_it_is_over(said: list[str]) -> None:
    with waiting("the NAS", 90):
        wait_for(lambda: said)
    assert said == ["waiting for the NAS, 90 s at most", ""]
    with waiting("the NAS", "as long as its mount waits"):
        wait_for(lambda: len(said) == 3)
    assert said[2:] == ["waiting for the NAS, as long as its mount waits", ""]


def test_of_several_the_outermost_speaks(said: list[str]) -> None:
    with waiting("the import", 60), waiting("VBoxManage", 5):
        wait_for(lambda: said)
    assert said == ["waiting for the import, 60 s at most", ""]


def test_pauses_are_one_wait(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "SILENT_SECONDS", 3600.0)
    now = [1000.0]
    monkeypatch.setattr(waits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pause = pausing(lambda seconds: wait_for(lambda: said) if seconds > 1 else None, "VBoxSVC", 9)
    pause(1)
    assert said == []
    now[0] += 3600
    pause(2)
    assert said == ["waiting for VBoxSVC, 9 s at most", ""]


def test_a_thread_of_its_own_holds_nobody_up(said: list[str]) -> None:
    started: list[bool] = []

    def work() -> None:
        with waiting("a heartbeat", 5):
            started.append(threading.active_count() > before + 1)

    before = threading.active_count()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (started, said) == ([False], [])


def test_under_cron_nothing_is_said_nor_done(
    said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    before = threading.active_count()
    with waiting("the NAS", 90):
        assert threading.active_count() == before
    assert said == []


def test_where_no_terminal_is_it_is_a_line_of_the_log(
    said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with shown_by(waits.say_on_stderr), waiting("the NAS", 90):
        wait_for(lambda: caplog.messages)
    assert caplog.messages == ["waiting for the NAS, 90 s at most"]
    assert said == []
