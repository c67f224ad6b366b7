"""The single file: it is for one Python, unpacked once, and needs neither a home nor a terminal."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.single.__main__ import pack
from deploy.single.start import PROGRAMS

_SAYS = "import os, sys; print(__spec__.name, sys.argv[1:], os.path.dirname(__file__))\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A single file with programs that say what they were called with."""
    modules = tmp_path / "modules"
    for name in PROGRAMS.values():
        place = modules / f"{name.replace('.', '/')}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_SAYS)
        (place.parent / "__init__.py").touch()
    pack(modules, tmp_path / "vmbackup")
    return tmp_path / "vmbackup"


def call(command: list[str | Path], home: Path | None) -> subprocess.CompletedProcess[str]:
    """As cron calls it, with little in the environment."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    environment |= {"HOME": str(home)} if home else {}
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


@pytest.mark.broad
def test_the_first_word_or_the_name_of_a_link_says_which_program(
    file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "vmbackup-lock"
    link.symlink_to(file)
    for command, said in (
        ([file, "admin", "show", "web 01"], "coordinator.admin ['show', 'web 01']"),
        ([file, "worker", "run"], "worker.cli ['run']"),
        ([link, "list"], "coordinator.lock ['list']"),
    ):
        done = call(command, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(said)
        assert str(tmp_path / ".cache/vmbackup") in done.stdout
    assert len(list((tmp_path / ".cache/vmbackup").iterdir())) == 1, "unpacked once"
    wrong, asked = call([file], tmp_path), call([file, "--help"], tmp_path)
    assert (wrong.returncode, wrong.stdout, asked.returncode, asked.stderr) == (2, "", 0, "")
    assert wrong.stderr == asked.stdout
    assert asked.stdout.startswith("usage: vmbackup admin|lock|worker")


@pytest.mark.broad
def test_it_says_when_it_does_not_fit(file: Path, tmp_path: Path) -> None:
    pack(tmp_path / "modules", file, python="2.7")
    done = call([file, "admin"], tmp_path)
    assert done.returncode == 2
    assert "was made for Python 2.7 on" in done.stderr
    assert not (tmp_path / ".cache").exists()


def test_a_directory_that_others_may_change_is_not_used(file: Path, tmp_path: Path) -> None:
    (tmp_path / ".cache/vmbackup").mkdir(parents=True)
    os.chmod(tmp_path / ".cache/vmbackup", 0o777)
    done = call([file, "admin"], tmp_path)
    assert done.returncode == 2
    assert "does not belong to this user alone" in done.stderr


@pytest.mark.broad
def test_a_home_without_room_is_said_to_be_that_and_nothing_stays(
    file: Path, tmp_path: Path
) -> None:
    """The largest file that it may write is small."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "modules" / "large.py").write_bytes(bytes(1 << 20))
    pack(tmp_path / "modules", file)
    limited = ["bash", "-c", 'ulimit -f 64; trap "" XFSZ; exec "$0" admin', file]
    done = call([*limited], home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"cannot unpack into {home}/.cache/vmbackup: File too large")
    assert list((home / ".cache/vmbackup").iterdir()) == []


@pytest.mark.broad
def test_without_a_home_that_can_be_written(file: Path, tmp_path: Path) -> None:
    (tmp_path / "no-home").write_text("a file")
    done = call([file, "admin", "status"], tmp_path / "no-home")
    assert (done.returncode, done.stderr) == (0, "")
    said, place = done.stdout.strip().rsplit(" ", 1)
    assert said == "coordinator.admin ['status']"
    assert place.startswith(f"/var/tmp/vmbackup-{os.geteuid()}/")
    shutil.rmtree(Path(place).parents[1])
