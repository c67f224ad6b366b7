"""Whether a schedule really starts the workers: what lies there and does nothing is found."""

import os
import plistlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator.doctor import cron, schedule
from coordinator.doctor.cron import CronHost
from coordinator.doctor.result import Check
from shared.host.processes import Completed

LINE = "*/10 * * * * root vmbackup-worker run\n"


class Answers:
    """Answers programs by their name; those without an answer are not there."""

    def __init__(self, **answers: tuple[int, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        self.asked.append(" ".join(arguments))
        if arguments[0] not in self.answers:
            raise FileNotFoundError(arguments[0])
        status, stdout = self.answers[arguments[0]]
        return Completed(tuple(arguments), status, stdout, "no bus" if status else "")


def examine(
    runner: Answers, *files: Path, daemon: str = "cron", path: str = "", owner: int = 0
) -> list[Check]:
    """On a host where all files belong to one user.

    Without a `path` its cron looks for programs where `cron_d` has one.
    """
    path = path or ":".join(str(file.parents[1] / "bin") for file in files)
    host = CronHost(lambda: daemon, path, lambda file: status_of(file, owner))
    return list(schedule.examine(runner, tuple(map(str, files)), host))


def status_of(file: Path, owner: int) -> os.stat_result:
    """Its status, if it were that user's."""
    mode, inode, device, links, _owner, *others = os.stat(file)
    return os.stat_result((mode, inode, device, links, owner, *others))


def one(runner: Answers, *files: Path, **more: Any) -> Check:
    (check,) = examine(runner, *files, **more)
    return check


@pytest.fixture
def cron_d(tmp_path: Path) -> Path:
    """A directory of cron whose files start a program that is there."""
    programs, directory = tmp_path / "bin", tmp_path / "cron.d"
    programs.mkdir()
    directory.mkdir()
    (programs / "vmbackup-worker").touch(0o755)
    return directory


def put(directory: Path, text: str = LINE, name: str = "vmbackup", mode: int = 0o644) -> Path:
    file = directory / name
    file.write_text(text)
    file.chmod(mode)
    return file


def test_nobody_starts_the_workers(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("* * * * * root true\n")
    check = one(Answers(), tmp_path / "*")
    assert (check.verdict, "deploy/" in check.hint) == ("warn", True)


class TestCron:
    def test_all_is_well(self, cron_d: Path) -> None:
        check = one(Answers(), put(cron_d))
        assert (check.verdict, check.seen) == ("ok", f"cron starts the workers: {cron_d}/vmbackup")

    def test_the_sample_that_we_ship_is_well_once_its_user_is_set(self, cron_d: Path) -> None:
        sample = (Path(__file__).parents[3] / "deploy" / "cron" / "vmbackup").read_text()
        there = sample.replace("/usr/local/bin", str(cron_d.parent / "bin"))
        assert one(Answers(), put(cron_d, there.replace("VMOWNER", "root"))).verdict == "ok"
        assert "there is no user VMOWNER" in one(Answers(), put(cron_d, there)).seen

    def test_no_cron_runs(self, cron_d: Path) -> None:
        check = one(Answers(), put(cron_d), daemon="")
        assert check.verdict == "warn"
        assert "no cron runs on this host" in check.seen

    @pytest.mark.parametrize(
        ("text", "name", "mode", "what"),
        [
            (LINE, "vmbackup.cron", 0o644, "passes over a file of that name"),
            (LINE, "vmbackup", 0o664, "nobody else may write it"),
            (LINE.strip(), "vmbackup", 0o644, "its last line has no end"),
            ("*/10 * * * * nobody-here vmbackup-worker run\n", "vmbackup", 0o644, "no user nobody"),
            ("@hourly nobody-here vmbackup-worker run\n", "vmbackup", 0o644, "no user nobody"),
            (f"PATH=/nowhere\n{LINE}", "vmbackup", 0o644, "does not find vmbackup-worker in /no"),
            (LINE.replace("vmb", "/opt/vmb"), "vmbackup", 0o644, "does not find /opt/vmbackup-w"),
        ],
    )
    def test_a_file_that_lies_there_and_does_nothing(
        self, cron_d: Path, text: str, name: str, mode: int, what: str
    ) -> None:
        check = one(Answers(), put(cron_d, text, name, mode))
        assert (check.verdict, what in check.seen, bool(check.hint)) == ("warn", True, True), check

    def test_a_file_of_another_user_is_not_read(self, cron_d: Path) -> None:
        assert "belongs to root" in one(Answers(), put(cron_d), owner=1000).seen

    def test_a_comment_starts_nothing(self, cron_d: Path) -> None:
        assert "neither cron" in one(Answers(), put(cron_d, f"# {LINE}")).seen

    def test_the_users_crontab(self, cron_d: Path) -> None:
        line, path = LINE.replace("root ", ""), str(cron_d.parent / "bin")
        seen = one(Answers(crontab=(0, line)), path=path).seen
        assert seen == "cron starts the workers: this user's crontab"
        assert "cron does not find" in one(Answers(crontab=(0, line)), path="/nowhere").seen
        assert "neither cron" in one(Answers(crontab=(0, f"#{line}"))).seen
        assert "neither cron" in one(Answers(crontab=(1, ""))).seen


def answer(states: Mapping[str, tuple[str, str]]) -> str:
    """What `systemctl show` prints."""
    return "\n\n".join(
        f"Id={unit}\nActiveState={active}\nUnitFileState={enabled}"
        for unit, (active, enabled) in states.items()
    )


UNITS = [
    f"vmbackup@{name}.timer" for name in ("vmfind", "notifier", "backup", "verify", "database")
]
GOOD = dict.fromkeys(UNITS, ("active", "enabled"))


class TestSystemd:
    @pytest.fixture
    def timer(self, tmp_path: Path) -> Path:
        (tmp_path / "vmbackup@.timer").write_text("")
        return tmp_path / "vmbackup*.timer"

    @pytest.mark.parametrize(
        ("states", "verdict", "seen", "hint"),
        [
            (GOOD, "ok", "vmbackup@vmfind.timer", ""),
            (
                {**GOOD, UNITS[2]: ("inactive", "enabled")},
                "warn",
                "not started: vmbackup@b",
                UNITS[2],
            ),
            ({**GOOD, UNITS[4]: ("active", "disabled")}, "warn", "not after the next", UNITS[4]),
            ({unit: GOOD[unit] for unit in UNITS[:4]}, "warn", "not started", UNITS[4]),
        ],
    )
    def test_timers(
        self,
        timer: Path,
        states: Mapping[str, tuple[str, str]],
        verdict: str,
        seen: str,
        hint: str,
    ) -> None:
        check = one(Answers(systemctl=(0, answer(states))), timer)
        assert (check.verdict, seen in check.seen, hint in check.hint) == (verdict, True, True)

    def test_systemd_that_does_not_run_here(self, timer: Path) -> None:
        assert "does not answer: no bus" in one(Answers(systemctl=(1, "")), timer).seen
        assert "cannot be started" in one(Answers(), timer).seen

    def test_timers_of_the_user(self, tmp_path: Path) -> None:
        (tmp_path / "user").mkdir()
        (tmp_path / "user" / "vmbackup.timer").write_text("")
        runner = Answers(systemctl=(0, answer({"vmbackup.timer": ("active", "enabled")})))
        assert one(runner, tmp_path / "user" / "*.timer").verdict == "ok"
        assert runner.asked[0].startswith("systemctl --user show")


def test_launchd(tmp_path: Path) -> None:
    directory = tmp_path / "LaunchDaemons"
    directory.mkdir()
    (directory / "x.vmbackup.plist").write_bytes(plistlib.dumps({"Label": "vmbackup.backup"}))
    loaded = Answers(launchctl=(0, "state = waiting"))
    assert one(loaded, directory / "*.plist").verdict == "ok"
    assert loaded.asked[0] == "launchctl print system/vmbackup.backup"
    check = one(Answers(launchctl=(113, "")), directory / "*.plist")
    assert (check.verdict, "launchctl bootstrap system" in check.hint) == ("warn", True)
    (directory / "x.vmbackup.plist").write_bytes(b"no plist")
    assert one(Answers(), directory / "*.plist").verdict == "warn"


def test_which_cron_runs_is_asked_of_the_processes() -> None:
    assert cron.daemon() in {"", *cron.DAEMONS}
