"""A copy as files of this host: real FUSE, real loop mounts, compared by digest."""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.mounting.shown_files import CopyView
from coordinator.mounting.steady_copy import GoneError
from coordinator.mounting.uses import Uses
from shared.host.errors import ExitCode, LockedError, NasError
from shared.host.process_identity import ProcessIdentity
from shared.host.processes import SubprocessRunner
from shared.ova.disk_reader import CopyReader, open_copy
from shared.serving import asking, places, server_ending, starting
from shared.serving.asking import Life, life_of
from shared.serving.noted_places import NOTE
from shared.state.rules import readers
from shared.tasks.boot_mounts import SUBTYPE
from tests.ordinary.mounts import possible
from tests.support import guest_disks
from tests.support.copies import UUID, put_copy, tar_file
from tests.support.packages import require
from tests.support.waiting import wait_for
from tests.unit.coordinator.conftest import Operator, copy

OLD, NEW = "20261121T000000Z-9", "20261122T203800Z-17"

NOBODY = 65534
WITHOUT_MFUSEPY = "import sys\nsys.modules['mfusepy'] = None\n"
#: Mounts, looks and unmounts: with the directory of the site, and the programs there.
ORDINARY = f"""
# the device is everybody's where udev made it, which a container has not
mount -t tmpfs none /srv && mknod /srv/fuse c 10 229 && chmod 666 /srv/fuse &&
    mount --bind /srv/fuse /dev/fuse && umount -l /srv || exit 9
# directories of tests are closed to others
mount --bind "$1" /srv && mount --bind /srv/fuse.conf /etc/fuse.conf || exit 9
they="setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups
  --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
$they "$2/vmbackup-admin" mount web /srv/place || exit 8
$they sha256sum /srv/place/disk1.img | cut -d" " -f1
sum=$(sha256sum /srv/place/disk1.img) && echo "$sum" | cut -d" " -f1 || echo refused
$they "$2/vmbackup-lock" list | grep -o -w mount | head -1
$they stat -c "%u %a" /srv/place/disk1.img
$they "$2/vmbackup-admin" umount /srv/place >&2
"""


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[None]:
    """Real FUSE; whatever is mounted below the directory of the test is unmounted after it."""
    require("fusermount3", "fuse3")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no /dev/fuse")
    yield
    runner = SubprocessRunner()
    for found in (each for kind in (places.SUBTYPE, SUBTYPE) for each in places.mounted(kind=kind)):
        if Path(found.place).is_relative_to(os.path.realpath(tmp_path)):
            with contextlib.suppress(LockedError):
                places.unmount(found, runner, lazily=True)


@pytest.fixture
def site(site_with_database: Operator, tmp_path: Path) -> tuple[Operator, bytes, Path]:
    """A VM with two copies, the newer one with a real disk; its bytes, and an empty directory."""
    files = tmp_path / "files"
    guest_disks.tree(files)
    parts = [guest_disks.ext(tmp_path / "e", files), guest_disks.ext(tmp_path / "f", files, "ext2")]
    disk = guest_disks.disk(tmp_path / "disk", parts, "dos")
    site_with_database.add_vms("web")
    directory = site_with_database.nas / "web"
    put_copy(directory, OLD, guest_disks.as_copy(parts[0]))
    put_copy(directory, NEW, guest_disks.as_copy(disk), sides={"vbox": b"<settings/>"})
    site_with_database.admin("verify", "web")
    place = tmp_path / "place"
    place.mkdir()
    return site_with_database, disk.read_bytes(), place


def mount(operator: Operator, place: Path, *more: str) -> dict[str, Any]:
    return dict(operator.json("mount", "web", str(place), *more))


def sessions(operator: Operator) -> list[dict[str, Any]]:
    locks = operator.json("list", program=_lock())["locks"]
    return [lock for lock in locks if lock["worker"] == "mount"]


def _lock() -> Any:
    from coordinator.lock import program

    return program


@pytest.mark.slow
@pytest.mark.usefixtures("fuse")
class TestMounted:
    def test_files_are_what_they_were_and_the_copy_is_held(
        self, site: tuple[Operator, bytes, Path]
    ) -> None:
        operator, disk, place = site
        plan = mount(operator, place, "--dry-run")
        assert plan["dry_run"]
        assert not places.at(place)
        done = mount(operator, place, "--copy", OLD)
        assert done["held"]
        assert os.getsid(done["pid"]) != os.getsid(0)
        assert done["files"] == ["description.ovf", "disk1.img"]
        assert [lock["vm"] for lock in sessions(operator)] == [f"{UUID}/{OLD}"]

        pruned = operator.json("prune", "web", "--dry-run")
        assert OLD not in json.dumps(pruned.get("removed", []))
        for command in (("remove", "web", OLD, "--yes"), ("archive", "web")):
            refused = operator.admin(*command)
            assert refused.exit_code == ExitCode.LOCKED, refused.output
            assert "is being read by session" in refused.stderr
        assert operator.admin("remove", "web", NEW, "--dry-run").exit_code != ExitCode.LOCKED

        again = operator.admin("mount", "web", str(place))
        assert again.exit_code == ExitCode.USAGE
        with (place / "disk1.img").open("rb") as opened:
            assert opened.read(1) is not None
            busy = operator.admin("umount", str(place))
            assert busy.exit_code == ExitCode.LOCKED
            assert "something is open" in busy.stderr
        assert operator.admin("umount", str(place)).exit_code == 0
        wait_for(lambda: not sessions(operator))
        assert operator.admin("umount", str(place)).exit_code == ExitCode.USAGE

        mount(operator, place)
        assert (place / "disk1.img").read_bytes() == disk
        assert (place / "settings.vbox").read_bytes() == b"<settings/>"
        for number, at in ((1, guest_disks.FIRST), (2, 26 * guest_disks.MIB)):
            part = (place / f"disk1.part{number}.img").read_bytes()
            assert part == disk[at : at + len(part)]
            assert len(part) == 24 * guest_disks.MIB
        with pytest.raises(OSError, match=r"Read-only|denied|not permitted"):
            (place / "disk1.img").open("r+b")
        with pytest.raises(OSError, match=r"Read-only|denied|not permitted|not implemented"):
            (place / "new").touch()
        link = place.with_name("link")
        link.symlink_to(place)
        assert operator.admin("umount", f"{link}/").exit_code == 0

    def test_what_a_killed_server_leaves_is_cleaned_up(
        self, site: tuple[Operator, bytes, Path]
    ) -> None:
        operator, _, place = site
        pid = mount(operator, place, "--copy", OLD)["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: (found := places.at(place)) and not found.alive)
        assert [lock["state"] for lock in sessions(operator)] == ["dead"]
        assert mount(operator, place)["stamp"] == NEW
        assert readers.readers(operator.contents, UUID).keys() == {NEW}
        assert operator.admin("umount", str(place)).exit_code == 0

    def test_a_server_that_was_stopped_ends_by_force(
        self, site: tuple[Operator, bytes, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At 91df01c `umount` waited for it without limit, also with --force."""
        operator, _, place = site
        pid = mount(operator, place, "--copy", OLD)["pid"]
        server = ProcessIdentity.of(pid)
        assert server is not None
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(asking, "ASK_SECONDS", 0.3)
        try:
            refused = operator.admin("umount", str(place))
            assert (refused.exit_code, "--force kills" in refused.stderr) == (11, True)
            assert operator.admin("umount", str(place), "--dry-run").exit_code == 11
            assert places.at(place) is not None
            done = operator.admin("umount", str(place), "--force")
            assert (done.exit_code, "still has to end" in done.stderr) == (0, False), done.stderr
            assert (places.at(place), server.is_alive()) == (None, False)
            assert not readers.readers(operator.contents, UUID)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @pytest.mark.parametrize(
        "command", [("umount", "PLACE"), ("prune", "web"), ("remove", "web", OLD, "--yes")]
    )
    def test_what_a_killed_server_held_is_free_for_the_next_command_that_meets_it(
        self, command: tuple[str, ...], site: tuple[Operator, bytes, Path]
    ) -> None:
        operator, _, place = site
        os.kill(mount(operator, place, "--copy", OLD)["pid"], signal.SIGKILL)
        wait_for(lambda: (found := places.at(place)) and not found.alive)
        words = [str(place) if word == "PLACE" else word for word in command]
        assert operator.admin(*words, "--dry-run").exit_code in (0, ExitCode.LOCKED)
        assert readers.readers(operator.contents, UUID).keys() == {OLD}
        result = operator.admin(*words)
        assert result.exit_code == 0, result.output
        assert not readers.readers(operator.contents, UUID)

    def test_a_disk_that_is_none_is_told_and_the_others_are_there(
        self, site: tuple[Operator, bytes, Path]
    ) -> None:
        operator, disk, place = site
        image = guest_disks.as_copy(place.parent / "disk")
        with tarfile.open(fileobj=io.BytesIO(image)) as archive:
            (member,) = (each for each in archive if each.name.endswith(".vmdk"))
            found = archive.extractfile(member)
            assert found is not None
            disks = [("a.vmdk", b"none".ljust(2048, b"\0")), ("b.vmdk", found.read())]
        put_copy(operator.nas / "web", NEW, tar_file([("x.ovf", b"<x/>"), *disks]))
        done = mount(operator, place)
        assert "disk1.img" not in done["files"]
        assert any("disk 1: " in warning for warning in done["warnings"])
        assert (place / "disk2.img").read_bytes() == disk

    def test_in_a_unit_of_systemd_the_server_gets_a_scope_of_its_own(
        self, site: tuple[Operator, bytes, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """systemd does not run here: a program takes its place that does what is behind `--`."""
        operator, _, place = site
        program = tmp_path / "bin" / "systemd-run"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'
            'while [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        mount(operator, place)
        assert not (tmp_path / "asked").exists()
        assert operator.admin("umount", str(place)).exit_code == 0
        monkeypatch.setenv("INVOCATION_ID", "0" * 32)
        told = operator.admin("mount", "web", str(place))
        assert (told.exit_code, "unit" in told.stderr) == (0, False)
        asked = (tmp_path / "asked").read_text()
        assert asked.startswith("--scope --quiet --collect -- ")
        assert asked.rstrip().endswith(f"-m coordinator.mounting.copy_server {place}")
        assert operator.admin("umount", str(place)).exit_code == 0
        with monkeypatch.context() as patched:
            patched.setattr(os, "geteuid", lambda: 1000)
            patched.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
            words = starting.in_a_scope(["server"])
            patched.delenv("XDG_RUNTIME_DIR")
            unreached = starting.in_a_scope(["server"])
        assert words == ["systemd-run", "--user", "--scope", "--quiet", "--collect", "--", "server"]
        assert unreached == ["env", "XDG_RUNTIME_DIR=/run/user/1000", *words]
        program.write_text("#!/bin/sh\nexit 1\n")
        told = operator.admin("mount", "web", str(place))  # it ends with the unit
        assert "unless the unit has KillMode=process" in told.stderr

    def test_it_ends_when_nobody_uses_it(self, site: tuple[Operator, bytes, Path]) -> None:
        operator, _, place = site
        with contextlib.ExitStack() as stack:
            mount(operator, place, "--idle", "0.02")
            stack.enter_context((place / "disk1.img").open("rb"))
            time.sleep(4)
            assert places.at(place)
        wait_for(lambda: not places.at(place))
        wait_for(lambda: not sessions(operator))

    def test_without_a_database_it_is_mounted_and_not_held(
        self, site: tuple[Operator, bytes, Path]
    ) -> None:
        operator, disk, place = site
        operator.json("status")
        shutil.rmtree(operator.vmstate)
        done = mount(operator, place)
        assert (done["held"], done["database"]) == (False, "none")
        assert (place / "disk1.img").read_bytes() == disk
        assert operator.admin("umount", str(place)).exit_code == 0

    @pytest.mark.parametrize("by", ["mfusepy", "qemu-nbd"])
    def test_an_ordinary_user_mounts_it_and_root_is_let_in_where_that_is_allowed(
        self, by: str, site: tuple[Operator, bytes, Path]
    ) -> None:
        """Without rights but to read the programs, which lie where root has them."""
        require("nbdfuse", "libnbd-bin")
        require("qemu-nbd", "qemu-utils")
        if not possible() or not shutil.which("setpriv"):
            (pytest.fail if os.environ.get("CI") else pytest.skip)("only root is somebody else")
        operator, disk, _ = site
        settings, script = operator.folder / "fuse.conf", operator.folder / "script"
        script.write_text(ORDINARY, encoding="utf-8")
        theirs = operator.config.read_text(encoding="utf-8").replace(str(operator.folder), "/srv")
        (operator.folder / "theirs.toml").write_text(theirs, encoding="utf-8")
        want = hashlib.sha256(disk).hexdigest()
        here = {**os.environ, "VMBACKUP_CONFIG": "/srv/theirs.toml", "HOME": "/"}
        if by == "qemu-nbd":
            (operator.folder / "sitecustomize.py").write_text(WITHOUT_MFUSEPY, encoding="utf-8")
            here["PYTHONPATH"] = f"/srv:{os.environ.get('PYTHONPATH', '')}"
        for path in (operator.folder, *operator.folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        for allowed in ("", "user_allow_other\n"):
            settings.write_text(allowed, encoding="utf-8")
            programs = Path(sys.executable).parent
            done = subprocess.run(
                ["unshare", "--mount", "sh", script, operator.folder, programs],
                env=here,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert len(done.stdout.splitlines()) == 5, done.stdout + done.stderr
            read, roots, held, owner = done.stdout.splitlines()[-4:]
            assert read == want
            assert roots == (want if allowed else "refused")
            assert (held, owner) == ("mount", f"{NOBODY} {400 if by == 'mfusepy' else 444}")
            assert f" by {by}: " in done.stdout
            wait_for(lambda: not sessions(operator))

    @pytest.mark.parametrize("kind", ["xfs", "btrfs"])
    def test_what_files_does_not_read_is_read_by_the_kernel(
        self, kind: str, site_with_database: Operator, tmp_path: Path
    ) -> None:
        if not possible():
            (pytest.fail if os.environ.get("CI") else pytest.skip)("loop mounts need root")
        operator = site_with_database
        files = tmp_path / "files"
        want = guest_disks.tree(files)
        image = guest_disks.of_linux(kind, tmp_path / "image", files, tmp_path / "made")
        operator.add_vms("web")
        put_copy(
            operator.nas / "web",
            NEW,
            guest_disks.as_copy(guest_disks.disk(tmp_path / "d", [image])),
        )
        (system,) = operator.json("files", "web")["systems"]
        assert system["type"].lower() == kind
        assert "vmbackup-admin mount web DIR" in system["advice"]
        place, inside = tmp_path / "place", tmp_path / "inside"
        place.mkdir()
        inside.mkdir()
        mount(operator, place)
        try:
            options = "ro,loop,norecovery" if kind == "xfs" else "ro,loop"
            with guest_disks.mounted(place / "disk1.part1.img", inside, options):
                found = guest_disks.digests(inside)
        finally:
            assert operator.admin("umount", str(place), "--force").exit_code == 0
        assert found == want


class TestWithoutFuse:
    def test_what_is_missing_is_one_sentence(
        self, site_with_database: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        monkeypatch.setenv("PATH", str(tmp_path))  # nor nbdfuse and qemu-nbd
        refused = site_with_database.admin("mount", "web", str(tmp_path))
        assert refused.exit_code == ExitCode.USAGE
        assert "pip install mfusepy" in refused.stderr
        assert "apt install libnbd-bin" in refused.stderr

    def test_only_an_empty_directory_is_taken(self, tmp_path: Path) -> None:
        runner = SubprocessRunner()
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "x").touch()
        for place in (tmp_path / "full", tmp_path / "none", tmp_path / "full" / "x"):
            with pytest.raises(Exception, match=r"not empty|no directory"):
                places.free(place, runner)

    def test_the_table_of_mounts(self, tmp_path: Path) -> None:
        table = tmp_path / "mounts"
        table.write_text(
            f"web\\04001:{OLD} {tmp_path} fuse.vmbackup ro 0 0\nx /mnt fuse.sshfs ro 0 0\n"
            f"a\u2028b\x85c\rd /mnt fuse.vmbackup ro 0 0\n",
            encoding="utf-8",
        )
        found, odd = places.mounted(table)
        assert (found.what, found.place, found.alive) == (f"web 01:{OLD}", str(tmp_path), True)
        assert (odd.what, odd.place) == ("a\u2028b\x85c\rd", "/mnt")

    def test_it_is_found_by_any_name_of_its_directory_and_not_by_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = Path(os.path.realpath(tmp_path)) / "place"
        table = tmp_path / "mounts"
        table.write_text(f"web:{OLD} {place} fuse.vmbackup ro 0 0\n")
        monkeypatch.setattr(places, "mounted", partial(places.mounted, table))
        (place / "below").mkdir(parents=True)
        (tmp_path / "link").symlink_to("place")
        (tmp_path / "second").symlink_to(tmp_path / "link")
        (tmp_path / "folder").symlink_to(tmp_path)
        (tmp_path / "loop").symlink_to("loop")
        monkeypatch.chdir(place)
        for name in ("place", "place/", "link", "link/", "second", "folder/place", "folder/link"):
            assert places.at(Path(f"{tmp_path}/{name}")), name
        for name in (".", "below/..", "../link"):
            assert places.at(Path(name).absolute()), name
        for name in ("loop", "none", "none/..", "place/below", ""):
            assert places.at(Path(f"{tmp_path}/{name}")) is None, name
        assert places.at(Path("/")) is None

    @pytest.mark.parametrize("more", [(), ("--force",), ("--dry-run",)])
    def test_that_of_a_rehearsal_is_neither_named_nor_unmounted(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        site_with_database: Operator,
        more: tuple[str, ...],
    ) -> None:
        trial, table = f"vmbackup-rehearsal-{'a' * 32}", tmp_path / "mounts"
        place = Path(os.path.realpath(tmp_path)) / trial / "disks"
        own = place.parents[1] / "vmbackup-rehearsal-of-mine" / "disks"
        table.write_text(
            f"{trial}:{OLD} {place} fuse.vmbackup ro 0 0\nweb:{OLD} {own} fuse.vmbackup ro 0 0\n"
        )
        monkeypatch.setattr(places, "mounted", partial(places.mounted, table))
        refused = site_with_database.admin("umount", str(place), *more)
        assert (refused.exit_code, "a VM on trial" in refused.stderr) == (ExitCode.LOCKED, True)
        other = site_with_database.admin("umount", str(tmp_path), *more)
        assert f"mounted copies on this host: {own}\n" in other.stderr

    @pytest.mark.parametrize("more", [(), ("--force",)])
    def test_what_a_killed_rehearsal_left_is_unmounted_also_without_a_database(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        operator: Operator,
        more: tuple[str, ...],
    ) -> None:
        trial, table = f"vmbackup-rehearsal-{'a' * 32}", tmp_path / "mounts"
        place = Path(os.path.realpath(tmp_path)) / trial / "disks"
        table.write_text(f"{trial}:{OLD} {place} fuse.vmbackup ro 0 0\n")
        monkeypatch.setattr(places, "mounted", partial(places.mounted, table))
        monkeypatch.setattr(places, "life_of", lambda _place, **_: Life.GONE)
        gone = list[tuple[str, bool]]()

        def unmount(found: places.MountedCopy, _runner: object, *, lazily: bool) -> None:
            gone.append((found.place, lazily))

        monkeypatch.setattr(places, "unmount", unmount)
        done = operator.admin("umount", str(place), *more)
        assert (done.exit_code, gone) == (ExitCode.DONE, [(str(place), True)]), done.stderr

    @pytest.mark.parametrize("trial", [False, True])
    def test_one_whose_server_hangs_is_ended_by_force_only(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        site_with_database: Operator,
        trial: bool,
    ) -> None:
        table, name = tmp_path / "mounts", f"vmbackup-rehearsal-{'a' * 32}" if trial else "web"
        place = Path(os.path.realpath(tmp_path)) / name / "disks"
        table.write_text(f"{name}:{OLD} {place} fuse.vmbackup ro 0 0\n")
        monkeypatch.setattr(places, "mounted", partial(places.mounted, table))
        monkeypatch.setattr(places, "life_of", lambda _place, **_: Life.HANGS)
        told = list[tuple[str, bool]]()
        monkeypatch.setattr(
            places, "unmount", lambda each, _, lazily: told.append((each.what, lazily))
        )
        refused = site_with_database.admin("umount", str(place))
        assert refused.exit_code == ExitCode.LOCKED
        assert "its server does not answer" in refused.stderr
        assert "--force" in refused.stderr
        assert told == []
        done = site_with_database.admin("umount", str(place), "--force")
        assert (done.exit_code, told) == (0, [(f"{name}:{OLD}", True)])
        assert "was not found, and still has to end" in done.stderr
        assert "`pgrep -af coordinator.mounting.server` lists these" in done.stderr

    @pytest.mark.parametrize("words", [("mount", "web", ""), ("umount", "")])
    def test_an_empty_word_is_no_directory(
        self, site_with_database: Operator, words: tuple[str, ...]
    ) -> None:
        """It was taken for the one in which the command was given."""
        done = site_with_database.admin(*words)
        assert (done.exit_code, "names no directory" in done.stderr) == (ExitCode.USAGE, True)

    def test_one_that_hangs_does_not_hold_up_who_cleans_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`mount` looks what servers that died have left; it waited ten seconds for each."""
        table, waited = tmp_path / "mounts", list[float | None]()
        options = f"ro,user_id={os.geteuid()}"
        table.write_text(
            "".join(f"web:{OLD} {tmp_path}/{name} fuse.vmbackup {options} 0 0\n" for name in "ab")
        )
        monkeypatch.setattr(places, "mounted", partial(places.mounted, table))

        def life_of(place: str, *, seconds: float | None) -> Life:
            waited.append(seconds)
            return Life.HANGS if place.endswith("a") else Life.GONE

        monkeypatch.setattr(places, "life_of", life_of)
        monkeypatch.setattr(places, "unmount", lambda *_, **__: None)
        assert places.clean_up(SubprocessRunner()) == [f"{tmp_path}/b"]
        assert waited == [1.0, 1.0]

    def test_what_another_mounted_is_said_to_be_theirs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That --force helps was said, which it does not."""
        found = places.MountedCopy("/tmp/it", "web", owner=0)
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        with pytest.raises(LockedError, match="belongs to the user root") as raised:
            places.unmount(found, SubprocessRunner(), lazily=True)
        assert "sudo -u root vmbackup-admin umount /tmp/it" in raised.value.hint
        assert "--force" not in raised.value.hint
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        places.require_own(places.MountedCopy("/tmp/it", "web", owner=NOBODY))

    @pytest.mark.parametrize("ended", [True, False])
    def test_a_server_that_ends_with_its_mount_has_ended(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        site_with_database: Operator,
        ended: bool,
    ) -> None:
        table, there = tmp_path / "mounts", ["mounted"]
        place = Path(os.path.realpath(tmp_path)) / "disks"
        table.write_text(f"web:{OLD} {place} fuse.vmbackup ro 0 0\n")
        monkeypatch.setattr(places, "mounted", partial(places.mounted, table))
        monkeypatch.setattr(places, "life_of", lambda _place, **_: Life.HANGS)
        monkeypatch.setattr(places, "unmount", lambda *_, lazily: there.clear())
        own = ProcessIdentity.of(os.getpid())
        monkeypatch.setattr(server_ending, "server_of", lambda _place: own if there else None)
        monkeypatch.setattr(server_ending, "kill", lambda server: ended and server == own)
        done = site_with_database.admin("umount", str(place), "--force")
        assert (done.exit_code, there) == (0, [])
        assert (f"(process {os.getpid()}) still has to end" in done.stderr) == (not ended)
        assert "not found" not in done.stderr

    @pytest.mark.parametrize(
        ("user", "options", "owner", "found"),
        [
            (0, "ro,user_id=1234,group_id=7", 1234, True),
            (0, "ro,user_id=1235,group_id=7", 1234, False),
            (0, "ro", 1234, False),
            (0, "ro", 0, True),
            (1234, "ro,user_id=1235", 1234, True),
            (1235, "ro,user_id=1234", 1234, False),
        ],
    )
    def test_root_finds_the_server_of_whoever_mounted_it(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        user: int,
        options: str,
        owner: int,
        found: bool,
    ) -> None:
        place, table = tmp_path / "a place", tmp_path / "mounts"
        place.mkdir()
        escaped = str(place).replace(" ", "\\040")
        table.write_text(f"\nx / ext4 rw 0 0\nweb {escaped} fuse.vmbackup {options} 0 0\n")
        server = SimpleNamespace(
            pid=os.getpid(),
            cmdline=lambda: ["python", "-m", server_ending.MODULE, str(place)],
            uids=lambda: SimpleNamespace(real=owner),
        )
        monkeypatch.setattr(server_ending.psutil, "process_iter", lambda: [server])
        monkeypatch.setattr(server_ending.os, "getuid", lambda: user)
        with (place / NOTE).open("w"):  # as a server has it open
            assert (server_ending.server_of(str(place), table) is not None) == found

    def test_a_server_is_waited_for_so_long_and_not_asked_twice(self) -> None:
        asked, answer = list[str](), threading.Event()

        def hang(place: str) -> None:
            asked.append(place)
            assert answer.wait(60)
            raise OSError(errno.ENOTCONN, "gone")

        assert life_of("/a", ask=hang, seconds=0.01) == Life.HANGS
        assert life_of("/a", ask=hang, seconds=0.01) == Life.HANGS
        assert asked == ["/a"]
        assert life_of("/b", ask=len, seconds=60) == Life.SERVED
        answer.set()
        assert life_of("/a", ask=hang, seconds=60) == Life.GONE
        assert len(asked) <= 2, "and the second time only if the first was answered"

    @pytest.mark.broad
    def test_a_server_that_does_not_start(self) -> None:
        for program in ("pass", "print('{}')", "print('[]')"):
            with pytest.raises(starting.MountError):
                starting.start({}, seconds=5, command=("python3", "-c", program), environment={})
        said = json.dumps({"error": "away", "code": 13})
        program = f"print({said!r})"
        with pytest.raises(NasError, match="away"):
            starting.start({}, seconds=20, command=("python3", "-c", program), environment={})
        said = json.dumps({"error": "being moved", "code": int(ExitCode.LOCKED)})
        with pytest.raises(LockedError, match="being moved"):
            starting.start(
                {}, seconds=20, command=("python3", "-c", f"print({said!r})"), environment={}
            )

    def test_idle_is_when_no_file_is_open(self) -> None:
        now = [0.0]
        uses = Uses(lambda: now[0])
        uses.touch(1)
        now[0] = 100
        assert uses.idle_seconds() == 0
        uses.touch(-1)
        now[0] = 130
        assert uses.idle_seconds() == 30


class TestNasAway:
    """Reads fail while the NAS is away, and come back with it; never from another copy."""

    @pytest.mark.broad
    def test_it(self, tmp_path: Path) -> None:
        files = tmp_path / "files"
        guest_disks.tree(files)
        image = guest_disks.ext(tmp_path / "e", files)
        ova = tmp_path / "x.ova"
        ova.write_bytes(guest_disks.as_copy(image))
        away = [False]

        class Disk:
            problem = ""

            def __init__(self, disk: Any) -> None:
                self._disk, self.name, self.size = disk, disk.name, disk.size

            def read(self, offset: int, length: int) -> bytes:
                if away[0]:
                    raise NasError("away")
                return bytes(self._disk.read(offset, length))

        def opener(path: Path) -> CopyReader:
            if away[0]:
                raise NasError("away")
            reader = open_copy(path)
            reader.disks = tuple(Disk(disk) for disk in reader.disks)  # type: ignore[misc]
            return reader

        with CopyView(ova, opener) as view:
            want = view.read("disk1.img", 1024, 512)
            assert want == image.read_bytes()[1024:1536]
            away[0] = True
            for _ in range(3):
                with pytest.raises(NasError):
                    view.read("disk1.img", 1024, 512)
            assert view.read("description.ovf", 0, 5)
            away[0] = False
            assert view.read("disk1.img", 1024, 512) == want
            away[0] = True
            with pytest.raises(NasError):
                view.read("disk1.img", 1024, 512)
            away[0] = False
            ova.write_bytes(guest_disks.as_copy(image) + bytes(512))
            with pytest.raises(GoneError):
                view.read("disk1.img", 1024, 512)


class TestReaders:
    def test_no_copy_is_read_that_is_being_moved_or_removed(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        with operator.session("prune") as pruner:
            operator.claim(pruner, "web", "prune")
            with operator.session("mount") as session, pytest.raises(LockedError):
                session.read_copy(UUID, NEW)
        operator.set("web", claim=None, publishing=copy(NEW))
        with operator.session("mount") as session, pytest.raises(LockedError):
            session.read_copy(UUID, OLD)
        operator.set("web", publishing=None)
        with operator.session("mount") as session:
            session.read_copy(UUID, NEW)
            assert readers.readers(operator.contents, UUID.upper())[NEW].id == session.id
            with pytest.raises(LockedError):
                readers.require_unread(operator.contents, UUID, NEW)
            readers.require_unread(operator.contents, UUID, OLD)
        readers.require_unread(operator.contents, UUID)
