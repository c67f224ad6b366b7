"""The server of disks as a program of its own: real FUSE, and its end when that is asked for."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from coordinator.booting import machine_making, mounts
from coordinator.booting.ending import ended_by_sigterm
from coordinator.booting.identity import identity, require_same
from coordinator.mounting.steady_copy import SteadyCopy
from shared.host.errors import CopyError, LockedError, NasError
from shared.host.host_lock import host_lock
from shared.host.process_identity import ProcessIdentity, wait_until_gone
from shared.serving import starting
from shared.serving.asking import Life
from shared.tasks import boot_mounts, boot_note
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.virtualbox import scratch
from tests.support import engine_copies
from tests.support.copies import ova, vmdk
from tests.support.waiting import wait_for
from tests.unit.coordinator.test_booting import DATA, GRAIN, GRAINS
from tests.unit.coordinator.test_mounting import fuse
from tests.unit.coordinator.test_steady_copy import lose

__all__ = ["fuse"]

UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def note(tmp_path: Path) -> BootNote:
    """A VM whose folder is made, with one disk."""
    state = tmp_path / "state"
    state.mkdir()
    note = BootNote(
        boot_note.new_file(state),
        tmp_path / "vms" / "web",
        *("web", UUID, "original", "web", "20261122T203800Z-17", "sha256:whole"),
        (BootDisk("disk1.vmdk", UUID, "web-disk001.vdi"),),
        "2026-11-22T20:38:00Z",
        phase=Phase.RUNNING,
    )
    note.folder.parent.mkdir()
    scratch.make(note.folder, note.mark)
    note.place.mkdir()
    note.filling.mkdir()
    boot_note.write(note)
    return note


@pytest.fixture
def job(note: BootNote, tmp_path: Path) -> dict[str, Any]:
    """What serves the disk of that VM is told."""
    copy = tmp_path / "copy.ova"
    copy.write_bytes(ova(vmdk(GRAINS, 129)))
    with SteadyCopy(copy) as steady:
        note = replace(note, disks=(replace(note.disks[0], member=steady.reader().disks[0].name),))
    boot_note.write(note)
    job = {"note": str(note.file), "ova": str(copy), "sha256": "whole", "fresh": True}
    return job | {"config": str(tmp_path / "none.toml"), "indexed": True}


@pytest.fixture
def server(job: dict[str, Any]) -> Iterator[ProcessIdentity]:
    """Serves the disk of that VM."""
    found = ProcessIdentity.of(starting.start(job, command=machine_making.DISK_SERVER).pid)
    assert found is not None
    yield found
    if found.is_certain():
        os.kill(found.pid, signal.SIGKILL)


def is_free(note: BootNote) -> bool:
    with host_lock(note.file.parent, note.server_lock) as mine:
        return mine


@pytest.mark.slow
@pytest.mark.usefixtures("fuse")
class TestTerminated:
    def test_it_ends_and_leaves_nothing(self, note: BootNote, server: ProcessIdentity) -> None:
        assert mounts.is_served(note)
        assert not is_free(note)
        os.kill(server.pid, signal.SIGTERM)
        assert wait_until_gone(server, timeout_seconds=60)
        assert not boot_mounts.is_mounted(note)
        assert list(note.place.iterdir()) == []
        wait_for(lambda: is_free(note))  # a child of it may be about to unmount, too

    def test_it_ends_while_a_vm_has_its_disk_open(
        self, note: BootNote, server: ProcessIdentity
    ) -> None:
        opened = os.open(note.place / note.disks[0].file, os.O_RDONLY)
        try:
            assert os.pread(opened, GRAIN, 1 << 20) == DATA
            os.kill(server.pid, signal.SIGTERM)
            assert wait_until_gone(server, timeout_seconds=60)
            assert not boot_mounts.is_mounted(note)
            with pytest.raises(OSError, match=r"not connected|abort"):
                os.pread(opened, GRAIN, 2 << 20)
        finally:
            with contextlib.suppress(OSError):  # of a server that is gone
                os.close(opened)
        wait_for(lambda: is_free(note))


@pytest.mark.slow
@pytest.mark.usefixtures("fuse")
def test_one_that_was_stopped_is_named_at_once_and_nothing_waits_for_it(
    note: BootNote, server: ProcessIdentity
) -> None:
    wait_for(lambda: note.server == server)
    mounts.require_answer(note)
    os.kill(server.pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(server.pid).status() == psutil.STATUS_STOPPED)
    with pytest.raises(LockedError, match=f"{note.place} do.*{server.pid}, was stopped") as raised:
        mounts.require_answer(note)
    assert f"kill -CONT {server.pid}" in raised.value.hint
    os.kill(server.pid, signal.SIGCONT)
    mounts.require_answer(note)
    assert mounts.is_served(note)


@pytest.mark.parametrize("known", [True, False])
def test_one_that_hangs_is_named(
    note: BootNote, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    hangs = SimpleNamespace(life=lambda: Life.HANGS)
    monkeypatch.setattr(mounts, "mount_of", lambda _: hangs)
    own = ProcessIdentity.of(os.getpid())
    assert own
    if known:
        note.progress.write({"pid": own.pid, "started": own.started, "born": own.born})
    with pytest.raises(LockedError, match="hangs, or waits for the NAS") as raised:
        mounts.require_answer(note)
    assert (f"process {own.pid}" in raised.value.message) == known
    assert f"kill -KILL {own.pid if known else 'PID'}`" in raised.value.hint
    assert ("pgrep -af" in raised.value.hint) != known


def test_one_of_a_vm_whose_folder_was_renamed_is_asked_where_that_is_now(
    note: BootNote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hangs, renamed = SimpleNamespace(life=lambda: Life.HANGS), tmp_path / "renamed"
    monkeypatch.setattr(boot_mounts, "moved_to", lambda _: renamed)
    monkeypatch.setattr(
        mounts, "mount_of", lambda asked: hangs if asked.folder == renamed else None
    )
    with pytest.raises(LockedError, match=f"in {renamed}.* hangs"):
        mounts.require_answer(note)


#: Serves what its argument says, and says the number of the server's process.
STARTS = """
import json, sys
from coordinator.booting import machine_making
from shared.serving import starting
print(starting.start(json.loads(sys.argv[1]), command=machine_making.DISK_SERVER).pid, flush=True)
"""


def ended_terminal(words: list[str]) -> str:
    """The first line of a command in a shell whose terminal goes away then, with all in it."""
    shell, terminal = pty.fork()
    if not shell:
        os.execv("/bin/sh", ["sh", "-c", '"$@"; read end', "sh", *words])
    with os.fdopen(terminal, "rb", buffering=0) as master:
        said = master.readline().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1]) in (-signal.SIGHUP, 1)
    return said


def ended_job(words: list[str]) -> str:
    """The output of a job of cron, which waits for its end: whoever may still write keeps it."""
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@"', "sh", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    return done.stdout


def ended_group(words: list[str]) -> str:
    """The output of a job all processes of whose group are killed when it has said something."""
    with subprocess.Popen(
        ["/bin/sh", "-c", '"$@"; read end', "sh", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as job:
        assert job.stdout is not None
        said = job.stdout.readline()
        os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == -signal.SIGKILL
    return said


@pytest.mark.slow
@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize("ended", [ended_terminal, ended_job, ended_group])
def test_it_survives_the_end_of_what_it_was_started_in(
    note: BootNote, job: dict[str, Any], ended: Callable[[list[str]], str]
) -> None:
    server = ProcessIdentity.of(int(ended([sys.executable, "-c", STARTS, json.dumps(job)])))
    assert server is not None
    try:
        with (note.place / note.disks[0].file).open("rb") as disk:
            assert os.pread(disk.fileno(), GRAIN, 1 << 20) == DATA
        assert os.getsid(server.pid) not in (os.getsid(0), server.pid)
    finally:
        assert server.is_certain()
        os.kill(server.pid, signal.SIGTERM)
    assert wait_until_gone(server, timeout_seconds=60)


class TestEnding:
    def test_who_does_not_leave_is_ended(self, tmp_path: Path) -> None:
        told = tmp_path / "told"
        child = os.fork()
        if not child:
            with ended_by_sigterm(told.touch, 0.0):
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait()  # as a read of a NAS that is away
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert told.exists()

    def test_all_is_as_before_when_it_was_left(self) -> None:
        before = signal.getsignal(signal.SIGTERM), threading.active_count()
        called = list[bool]()
        with ended_by_sigterm(lambda: called.append(True)):
            assert signal.getsignal(signal.SIGTERM) != before[0]
        assert (signal.getsignal(signal.SIGTERM), threading.active_count()) == before
        assert called == []

    def test_what_fails_within_is_raised(self) -> None:
        with pytest.raises(RuntimeError, match="not mounted"), ended_by_sigterm(lambda: None):
            raise RuntimeError("not mounted")


class TestIdentity:
    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        """A copy with an index."""
        image = engine_copies.disk(b3=0, b33=9)
        return Path(engine_copies.make(tmp_path, "made", {"SATA-0-0": image}).ova)

    def refused(self, copy: Path, note: BootNote, sha256: str = "") -> CopyError:
        with SteadyCopy(copy) as steady, pytest.raises(CopyError) as raised:
            require_same(steady.reader(), sha256, note)
        return raised.value

    @pytest.fixture
    def begun(self, note: BootNote, copy: Path) -> BootNote:
        with SteadyCopy(copy) as steady:
            return replace(note, index=identity(steady.reader(), "whole"))

    @pytest.mark.broad
    def test_the_same_copy(self, begun: BootNote, note: BootNote, copy: Path) -> None:
        with SteadyCopy(copy) as steady:
            require_same(steady.reader(), "", begun)
            require_same(steady.reader(), "whole", note)  # begun before it had an index

    @pytest.mark.broad
    def test_only_of_another_copy_it_is_said_that_the_vm_may_go(
        self, begun: BootNote, note: BootNote, copy: Path
    ) -> None:
        for other, sha256 in ((replace(begun, index="f" * 64), ""), (note, "other")):
            error = self.refused(copy, other, sha256)
            assert error.message.endswith("is not what 'web' was begun with: it does not go on")
            assert "--discard web" in error.hint

    @pytest.mark.broad
    @pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"{}")])
    def test_an_index_that_is_lost_is_no_other_copy(
        self, begun: BootNote, copy: Path, harm: Callable[[Path], object]
    ) -> None:
        harm(copy.with_suffix(".index"))
        error = self.refused(copy, begun, "whole")
        assert error.message.startswith("nobody knows whether the copy")
        assert "discard" not in error.hint
        assert "nothing beside it says" in self.refused(copy, begun).message

    @pytest.mark.broad
    def test_an_index_that_cannot_be_read_now_is_waited_for(
        self, begun: BootNote, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steady = SteadyCopy(copy)
        with steady:
            lose(steady, monkeypatch)
            with monkeypatch.context() as away, contextlib.suppress(NasError):
                away.setattr("shared.ova.index.os.pread", failing(os.pread))
                require_same(steady.reader(), "", begun)
                raise AssertionError("it was read")
            require_same(steady.reader(), "", begun)


def failing(read: Callable[[int, int, int], bytes]) -> Callable[[int, int, int], bytes]:
    """Fails for what only an index has at its beginning: a header of 64 KiB."""

    def pread(descriptor: int, length: int, place: int) -> bytes:
        if length == 65536 and place == 0:
            raise OSError(5, "Input/output error")
        return read(descriptor, length, place)

    return pread
