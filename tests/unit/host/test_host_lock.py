"""Locks among the processes of one host, and a state directory that cannot hold any."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.host.errors import ConfigurationError, ExitCode
from shared.host.host_lock import host_lock, is_held
from worker.report import slot


def unusable(tmp_path: Path) -> dict[str, Path]:
    """Places that root cannot use either."""
    (tmp_path / "file").touch()
    for name in ("x", "vmfind-0"):
        (tmp_path / "odd" / f"{name}.lock").mkdir(parents=True)
    return {
        "below a file": tmp_path / "file" / "state",
        "cannot be made": Path("/proc/none"),
        "holds something else": tmp_path / "odd",
    }


def test_one_has_it_and_the_others_are_told_at_once(tmp_path: Path) -> None:
    with (
        host_lock(tmp_path / "new", "x") as first,
        host_lock(tmp_path / "new", "x") as second,
        host_lock(tmp_path / "new", "y") as other,
    ):
        assert (first, second, other) == (True, False, True)
    with host_lock(tmp_path / "new", "x") as again:
        assert again


def test_of_two_slots_the_third_is_none(tmp_path: Path) -> None:
    with (
        slot(tmp_path, "backup", 2) as one,
        slot(tmp_path, "backup", 2) as two,
        slot(tmp_path, "backup", 2) as three,
    ):
        assert (one, two, three) == (True, True, False)


def test_what_goes_wrong_within_is_raised_as_it_is_and_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="within"), host_lock(tmp_path, "x"):
        raise OSError("within")
    with host_lock(tmp_path, "x") as again:
        assert again


@pytest.mark.parametrize("place", ["below a file", "cannot be made", "holds something else"])
def test_a_state_directory_that_cannot_be_used_is_one_sentence(tmp_path: Path, place: str) -> None:
    directory = unusable(tmp_path)[place]
    with (
        pytest.raises(ConfigurationError, match="cannot be used") as caught,
        host_lock(directory, "x"),
    ):
        raise AssertionError("it was locked")
    assert str(directory) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("place", ["below a file", "holds something else"])
@pytest.mark.slow
def test_a_worker_says_so_and_ends_with_two(tmp_path: Path, place: str) -> None:
    (tmp_path / "nas").mkdir()
    text = (
        f'[nas]\nmountpoint = "{tmp_path / "nas"}"\nrequire_mount = '
        f'false\n[host]\nstate_directory = "{unusable(tmp_path)[place]}"\n'
    )
    (tmp_path / "config.toml").write_text(text)
    command = [
        Path(sys.executable).parent / "vmbackup-worker",
        "--config",
        tmp_path / "config.toml",
        "run",
    ]
    done = subprocess.run(
        command, env={**os.environ}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2, "one sentence and its hint"


def test_who_asks_whether_it_is_held_takes_and_makes_nothing(tmp_path: Path) -> None:
    assert not is_held(tmp_path, "x")
    assert not list(tmp_path.iterdir())
    with host_lock(tmp_path, "x") as mine:
        assert (mine, is_held(tmp_path, "x"), is_held(tmp_path, "y")) == (True, True, False)
        assert not is_held(tmp_path, "x", tmp_path / "no such list")
    assert not is_held(tmp_path, "x")


def test_who_waits_for_a_lock_does_not_hold_it(tmp_path: Path) -> None:
    (tmp_path / "x.lock").touch()
    inode, table = (tmp_path / "x.lock").stat().st_ino, tmp_path / "locks"
    table.write_text(f"1: -> FLOCK  ADVISORY  WRITE 7 08:01:{inode} 0 EOF\n", encoding="ascii")
    assert not is_held(tmp_path, "x", table)
    table.write_text(f"1: FLOCK  ADVISORY  WRITE 7 08:01:{inode} 0 EOF\n", encoding="ascii")
    assert is_held(tmp_path, "x", table)
