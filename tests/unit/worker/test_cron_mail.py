"""What cron mails: an error when it begins, once a day, and when it is over."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from worker.cron_mail import Telling, understand

ALL = {"vmfind", "notifier", "backup", "verify", "database"}
START = datetime(2026, 11, 29, 12, tzinfo=UTC)


class Later(SystemClock):
    """The wall clock so long after `START`."""

    def __init__(self, hours: float) -> None:
        self._hours = hours

    def now(self) -> datetime:
        """See `Clock.now`."""
        return START + timedelta(hours=self._hours)


def tick(
    folder: Path,
    *lines: tuple[str, str],
    hours: float = 0,
    ended: set[str] | None = None,
    everything: bool = False,
    as_json: bool = False,
    **bounds: int,
) -> list[str]:
    """What is printed of what workers say in one tick."""
    printed: list[str] = []
    telling = Telling(
        folder / "told",
        Later(hours),
        printed.append,
        everything=everything,
        as_json=as_json,
        **bounds,
    )
    for worker, line in lines:
        telling.hear(worker, line)
    telling.conclude(ALL if ended is None else ended)
    return printed


def error(message: str, hint: str = "") -> str:
    details = {"kind": "NasError", "code": 13, "message": message, "hint": hint}
    return json.dumps({"error": details})


def said(level: str, message: str, **fields: str) -> str:
    head = {"time": "2026-11-29T12:00:00.000+00:00", "level": level, "program": "vmbackup-worker"}
    return json.dumps({**head, "message": message, **fields})


AWAY = ("vmfind", error("the NAS is not mounted", "mount it"))


def test_an_error_is_printed_when_it_begins_once_a_day_and_when_it_is_over(tmp_path: Path) -> None:
    printed = {
        hours: tick(tmp_path, AWAY, hours=hours, ended=set())
        for hours in (0, 0.2, 12, 23.9, 24, 24.2, 47)
    }
    text = "vmbackup-worker: error: the NAS is not mounted\nhint: mount it"
    assert printed == {0: [text], 0.2: [], 12: [], 23.9: [], 24: [text], 24.2: [], 47: []}
    over = tick(tmp_path, hours=47.2)
    assert over == [
        "vmbackup-worker: an error that began 2026-11-29T12:00:00Z is over: the NAS is not mounted"
    ]
    assert tick(tmp_path, hours=47.4) == []
    assert tick(tmp_path, AWAY, hours=48, ended=set()) == [text], "it begins again"


def test_one_cause_that_five_workers_meet_is_printed_once(tmp_path: Path) -> None:
    lines = [(worker, error("generation 7 is damaged")) for worker in sorted(ALL)]
    assert len(tick(tmp_path, *lines, ended=set())) == 1
    assert len(tick(tmp_path / "terminal", *lines, ended=set(), everything=True)) == 1


@pytest.mark.parametrize("what", ["vanished", "no file", "no directory", "not listed"])
def test_what_cannot_be_read_of_what_was_told_ends_no_tick(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(tmp_path, AWAY, ended=set())
    (note,) = (tmp_path / "told").iterdir()
    if what == "vanished":
        gone = tmp_path / "told" / "gone.json"
        monkeypatch.setattr(Path, "glob", lambda *_: iter([note, gone]))
    elif what == "no file":
        (tmp_path / "told" / "odd.json").mkdir()
    elif what == "no directory":
        note.unlink()
        (tmp_path / "told").rmdir()
        (tmp_path / "told").write_text("")
    else:

        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(Path, "glob", refuse)
    over = tick(tmp_path)
    assert len(over) == (what in ("vanished", "no file"))


def test_a_terminal_sees_it_at_each_tick(tmp_path: Path) -> None:
    assert [len(tick(tmp_path, AWAY, ended=set(), everything=True)) for _ in range(3)] == [1, 1, 1]


def test_it_is_over_only_when_those_who_said_it_have_done_their_work_without_it(
    tmp_path: Path,
) -> None:
    tick(tmp_path, ("backup", error("it fails")), ("verify", error("it fails")), ended={"database"})
    assert tick(tmp_path, ended=set()) == [], "nobody ended well"
    assert tick(tmp_path, ended={"backup", "vmfind"}) == [], "the other one still runs, or failed"
    assert "is over" in "".join(tick(tmp_path, ended={"backup", "verify"}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("13.2 GiB free, less than nas.reserve", "12.9 GiB free, less than nas.reserve"),
        ("no answer after 30 s", "no answer after 31.5 s"),
        ("the copy 20261122T203800Z-17 is damaged", "the copy 20261122T214800Z-18 is damaged"),
        ("held since 2026-11-22T20:38:00Z", "held since 2026-11-23T01:00:00Z"),
    ],
)
def test_what_only_counts_on_is_the_same_error(tmp_path: Path, one: str, other: str) -> None:
    assert len(tick(tmp_path, ("backup", error(one)), ended=set())) == 1
    assert tick(tmp_path, ("backup", error(other)), hours=1, ended=set()) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (said("error", "it fails", vm="web01"), said("error", "it fails", vm="web02")),
        (said("error", "it fails", vm="VM 1"), said("error", "it fails", vm="VM 2")),
        (error("Windows 10: it fails"), error("Windows 11: it fails")),
        (said("error", "unexpected", exception="a\nKeyError: 1"), said("error", "unexpected")),
    ],
)
def test_errors_of_two_vms_or_of_two_kinds_are_two(tmp_path: Path, one: str, other: str) -> None:
    assert len(tick(tmp_path, ("backup", one), ("backup", other), ended=set())) == 2


def test_a_warning_is_said_once_and_nothing_is_said_of_its_end(tmp_path: Path) -> None:
    line = ("database", said("warning", "finishing what a worker began", vm="web01"))
    assert tick(tmp_path, line) == [
        "2026-11-29 12:00:00Z vmbackup-worker: WARNING: web01: finishing what a worker began"
    ]
    assert tick(tmp_path, line) == []
    assert tick(tmp_path) == []


@pytest.mark.parametrize(
    "message",
    ["the copy 20261122T203800Z-17 is damaged and does not count any more", "backup failed: x"],
)
def test_that_an_error_of_one_vm_is_not_said_again_does_not_mean_that_it_is_over(
    tmp_path: Path, message: str
) -> None:
    """The next tick did not look at it: a damaged copy is read once, the window has closed."""
    line = ("verify", said("error", message, vm="web01"))
    assert len(tick(tmp_path, line)) == 1
    assert tick(tmp_path, line, hours=0.2) == []
    assert tick(tmp_path, hours=0.4) == []
    assert len(tick(tmp_path, line, hours=0.6)) == 1, "it is forgotten, and told when said again"


def test_what_is_no_line_of_the_log_is_printed_as_it_is(tmp_path: Path) -> None:
    assert tick(tmp_path, ("backup", "Fatal Python error: Segmentation fault")) == [
        "Fatal Python error: Segmentation fault"
    ]
    for nonsense in ("[1]", '"error"', '{"error": 1}', '{"level": "error"}', "7", ""):
        assert understand("backup", nonsense).line == nonsense


def test_json_stays_json(tmp_path: Path) -> None:
    first = tick(tmp_path, AWAY, as_json=True, ended=set())
    assert first == [AWAY[1]]
    (over,) = tick(tmp_path, as_json=True)
    assert json.loads(over)["message"].startswith("an error that began")


def test_the_log_has_everything_and_gives_way_at_its_bound(tmp_path: Path) -> None:
    for _ in range(3):
        tick(tmp_path, AWAY, ended=set())
    log = tmp_path / "run.log"
    assert log.read_text().count("the NAS is not mounted") == 3
    tick(tmp_path, AWAY, ended=set(), log_bytes=10)
    assert log.read_text().count("the NAS is not mounted") == 1
    assert (tmp_path / "run.log.1").read_text().count("the NAS is not mounted") == 3


def test_the_log_has_nothing_that_a_terminal_would_obey(tmp_path: Path) -> None:
    tick(tmp_path, ("backup", error("a hook said \x1b[31mred")), ended=set())
    tick(tmp_path, hours=1)
    log = (tmp_path / "run.log").read_text()
    assert ("is over" in log, "\x1b" in log, "\\x1b[31mred" in log) == (True, False, True)


def test_a_clock_that_was_ahead_silences_nothing(tmp_path: Path) -> None:
    tick(tmp_path, AWAY, hours=1000, ended=set())
    assert len(tick(tmp_path, AWAY, hours=0, ended=set())) == 1


def test_what_cannot_be_remembered_is_told_at_each_tick(tmp_path: Path) -> None:
    (tmp_path / "told").write_text("a file where the directory should be")
    assert [len(tick(tmp_path, AWAY, ended=set())) for _ in range(2)] == [1, 1]


def test_more_messages_than_are_remembered_are_all_told(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    lines = [("backup", error(f"{name} fails")) for name in names]
    assert len(tick(tmp_path, *lines, ended=set(), most_notes=2)) == 3
    assert len(tick(tmp_path, *lines, ended=set(), most_notes=2)) == 1
