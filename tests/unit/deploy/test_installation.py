"""Installing on a host whose root is a directory: what is ours, changed, or refused."""

import getpass
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.installation import files, install, release, schedule, uninstall
from deploy.installation.files import Record
from deploy.installation.places import Places, Steps
from deploy.installation.schedule import Schedule


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "root")


def put(places: Places, data: bytes, *, dry: bool = False) -> list[str]:
    """Puts the entry of cron there; what was said."""
    said: list[str] = []
    record = Record.read(places)
    files.put(record, Steps(dry, said.append), places.cron, data)
    if not dry:
        record.write()
    return said


def test_a_file_of_ours_is_written_updated_and_left_alone_when_it_is_so_already(
    places: Places,
) -> None:
    assert put(places, b"1\n", dry=True) == [f"would write {places.cron}"]
    assert not places.root.exists()
    assert put(places, b"1\n") == [f"write {places.cron}"]
    assert put(places, b"1\n") == []
    assert put(places, b"2\n") == [f"update {places.cron}"]
    assert places.cron.read_bytes() == b"2\n"
    assert places.cron.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("before", [None, b"1\n"], ids=["by hand", "ours, changed"])
def test_a_file_that_somebody_changed_is_kept_and_the_difference_is_shown(
    places: Places, before: bytes | None
) -> None:
    if before:
        put(places, before)
    places.cron.parent.mkdir(parents=True, exist_ok=True)
    places.cron.write_bytes(b"mine\n")
    said = put(places, b"ours\n")
    assert said[0].startswith(f"keep {places.cron}, which is not as it was installed")
    assert {"    -mine", "    +ours"} <= set(said)
    assert places.cron.read_bytes() == b"mine\n"


def everything(root: Path) -> dict[str, bytes | str | None]:
    return {
        str(path): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in root.rglob("*")
    }


def test_removal_leaves_what_was_there_before_and_the_configuration(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    (places.root / "usr/local/bin").mkdir(parents=True)
    (places.root / "usr/local/bin/other").write_text("not ours")
    before = everything(places.root)
    put(places, b"* * * * * alice vmbackup-worker run\n")
    record = Record.read(places)
    files.link(record, Steps(dry=False), places.binary("vmbackup-admin"), places.current / "bin/x")
    record.write()
    assert uninstall.main(["--dry-run"], places) == 0
    assert places.cron.exists()
    assert uninstall.main([], places) == 0
    assert everything(places.root) == before
    assert "the configuration" in capsys.readouterr().out
    assert uninstall.main([], places) == 0, "twice"


def test_a_changed_entry_is_kept_beside_the_configuration_when_its_program_goes(
    places: Places,
) -> None:
    put(places, b"1\n")
    places.cron.write_bytes(b"mine\n")
    assert uninstall.main([], places) == 0
    assert (places.configuration.parent / "kept/vmbackup").read_bytes() == b"mine\n"
    assert not places.cron.exists()


@pytest.mark.parametrize(
    "other",
    [
        "etc/systemd/system/vmbackup@.timer",
        "Library/LaunchDaemons/vmbackup.run.plist",
        "etc/crontab",
        "etc/cron.d/my-backups",
        f"var/spool/cron/crontabs/{getpass.getuser()}",
    ],
)
def test_two_schedules_are_refused_and_nothing_is_made(
    places: Places, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there = places.root / other
    there.parent.mkdir(parents=True)
    there.write_text("0 * * * * vmbackup-worker run\n")
    before = everything(places.root)
    arguments = ["--owner", getpass.getuser(), "--nas", "/mnt/nas", "--schedule", "cron"]
    assert install.main([*arguments, "--dry-run"], places) == 1
    assert str(there) in capsys.readouterr().err
    assert everything(places.root) == before
    there.write_text("#0 * * * * vmbackup-worker run\n")
    assert schedule.others(Schedule("cron", getpass.getuser(), 10, "/mnt/nas"), places) == (
        [there] if there.suffix in (".timer", ".plist") else []
    )


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["cron", "systemd", "launchd"])
def test_an_update_needs_no_mount_point(
    places: Places, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places.configuration.parent.mkdir(parents=True)
    places.configuration.write_text('[nas]\nmountpoint = "/mnt/nas"\n')
    assert (
        install.main(["--owner", getpass.getuser(), "--schedule", kind, "--dry-run"], places) == 0
    ), capsys.readouterr().err
    assert f"keep {places.configuration}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--owner", "no-such-user", "--nas", "/mnt/nas"], "there is no user no-such-user"),
        (["--owner", getpass.getuser()], "where is the NAS mounted? --nas DIRECTORY"),
        (["--owner", getpass.getuser(), "--nas", "nas"], "is no absolute path"),
        (["--owner", getpass.getuser(), "--nas", "/etc/passwd"], "is no directory"),
        (["--owner", getpass.getuser(), "--nas", "/dev/null"], "is no directory"),
        (["--owner", getpass.getuser(), "--nas", "/."], "this host's own root"),
        (
            ["--owner", getpass.getuser(), "--nas", "/n", "--python", "/no/python"],
            "needs Python 3.11 or newer that every user may run, and /no/python is none",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence_before_anything_is_made(
    places: Places, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install.main([*arguments, "--schedule", "cron"], places) == 1
    assert said in capsys.readouterr().err
    assert not places.root.exists()


def test_a_python_in_somebodys_home_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copy(os.path.realpath(sys.executable), home / "python3")
    with pytest.raises(release.InstallationError, match="every user may run"):
        release.system_python(str(home / "python3"))


def test_a_release_is_switched_in_one_step_and_the_old_one_goes_when_nothing_runs_in_it(
    places: Places,
) -> None:
    old, new = places.releases / "1", places.releases / "2"
    for made in (old, new):
        (made / "bin").mkdir(parents=True)
        release.switch(places, made)
        assert places.current.resolve() == made.resolve()
    shutil.copy("/bin/sleep", old / "bin/sleep")
    worker = subprocess.Popen([old / "bin/sleep", "60"])
    try:
        while not release.users(old):  # a process that just began has no words yet
            assert worker.poll() is None
        assert release.old(places, "2") == []
    finally:
        worker.kill()
        worker.wait()
    assert release.old(places, "2") == [old]


def test_a_schedule_that_somebody_wrote_and_that_calls_the_old_programs_is_found(
    places: Places,
) -> None:
    directory = places.top / "bin"
    crontab = places.root / "var/spool/cron/crontabs/alice"
    crontab.parent.mkdir(parents=True)
    crontab.write_text(f"# {directory}/vmbackup-worker\n", encoding="utf-8")
    assert schedule.calling(directory, places) == []
    crontab.write_text(f"*/5 * * * * {directory}/vmbackup-worker run\n", encoding="utf-8")
    assert schedule.calling(directory, places) == [crontab]


@pytest.mark.broad
def test_the_name_of_a_release_differs_if_its_python_does() -> None:
    python = Path(sys.executable)
    names = {release.identify(python, []), release.identify(python, [])}
    assert release.identify(python, ["mount"]) not in names
    (name,) = names
    assert name.endswith(f"-python{sys.version_info[0]}.{sys.version_info[1]}")


def test_a_dry_run_of_a_removal_says_where_it_would_stop(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places, b"1\n")
    (places.units / "vmbackup@.timer").parent.mkdir(parents=True)
    (places.units / "vmbackup@.timer").touch()
    monkeypatch.setattr(schedule, "runs_here", lambda _: True)
    monkeypatch.setattr(release, "users", lambda _: [7, 8])
    assert uninstall.main(["--dry-run"], places) == 0
    said = capsys.readouterr().out
    assert "would run systemctl disable --now vmbackup@vmfind.timer" in said
    assert "would stop here until the workers that run now have ended: process 7, 8" in said
    assert f"would remove {places.top}" in said
    assert places.cron.exists()


def test_what_was_changed_twice_is_kept_twice_and_a_directory_stays(places: Places) -> None:
    for text in (b"mine\n", b"again\n"):
        put(places, b"ours\n")
        places.cron.write_bytes(text)
        assert uninstall.main([], places) == 0
    kept = places.configuration.parent / "kept"
    assert [(kept / name).read_bytes() for name in ("vmbackup", "vmbackup.1")] == [
        b"mine\n",
        b"again\n",
    ]
    put(places, b"ours\n")
    places.cron.unlink()
    places.cron.mkdir()
    assert uninstall.main([], places) == 0
    assert places.cron.is_dir()


def test_a_damaged_record_is_one_sentence(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    put(places, b"1\n")
    places.record.write_text("{}", encoding="utf-8")
    assert uninstall.main([], places) == 1
    assert "is damaged: delete it" in capsys.readouterr().err
    assert places.cron.exists()


@pytest.mark.broad
def test_a_place_where_nothing_is_mounted_is_told_beforehand(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--owner", getpass.getuser(), "--schedule", "cron", "--dry-run", "--nas"]
    assert install.main([*words, str(tmp_path / "nas")], places) == 0
    assert f"note: nothing is mounted at {tmp_path / 'nas'}" in capsys.readouterr().out
    assert install.main([*words, "/proc"], places) == 0
    assert "note: " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "loaded", "refused"),
    [
        ("bootstrap", True, False),
        ("bootstrap", False, True),
        ("bootout", False, False),
        ("bootout", True, True),
    ],
)
def test_launchd_refuses_what_is_so_already_and_that_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, action: str, loaded: bool, refused: bool
) -> None:
    program = tmp_path / "launchctl"
    program.write_text(
        '#!/bin/sh\n[ "$*" = "print system/vmbackup.run" ] && exit '
        f"{0 if loaded else 113}\necho 'Bootstrap failed: 5' >&2\nexit 5\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = ["launchctl", action, "system", "/Library/LaunchDaemons/vmbackup.run.plist"]
    if refused:
        with pytest.raises(release.InstallationError, match="Bootstrap failed: 5"):
            schedule.call(command)
    else:
        schedule.call(command)
