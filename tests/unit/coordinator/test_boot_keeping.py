"""What goes on beside the serving of disks, and how far it is said to be."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.booting import keeping, mounts
from shared.host.errors import ConfigurationError, VBoxManageError
from shared.host.notes import Note
from shared.host.process_identity import ProcessIdentity
from shared.tasks import boot_mounts, boot_note
from shared.tasks.boot_note import BootNote, Phase
from shared.tasks.boot_progress import progress
from shared.tasks.boots_here import shown
from shared.virtualbox import scratch
from tests.support.waiting import wait_for
from tests.unit.coordinator.test_boot_settling import made, note

__all__ = ["made", "note"]

JOB = {"ova": "copy.ova", "config": None, "indexed": True}
GIB = 1 << 30


class Settling:
    """What happens to attempts to settle, one after the other; the last one again and again."""

    def __init__(self, *results: str | Exception) -> None:
        self.results, self.attempts = list(results), 0

    def __call__(self, *_: Any) -> str:
        self.attempts += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def settling() -> Settling:
    """What happens to the attempts of `kept`."""
    return Settling("")


@pytest.fixture
def settle(settling: Settling) -> Callable[..., Settling]:
    """Says what happens to them."""

    def say(*results: str | Exception) -> Settling:
        settling.results = list(results)
        return settling

    return say


@pytest.fixture
def ended() -> threading.Event:
    """Set when the disks of `kept` are served no more."""
    return threading.Event()


def is_at_work() -> bool:
    """Whether a keeper fills, or settles."""
    return any(thread.name == "filling" for thread in threading.enumerate())


@pytest.fixture
def kept(made: BootNote, settling: Settling, ended: threading.Event) -> Iterator[keeping.Keeper]:
    """A keeper that has nothing to fill; it is stopped at the end."""
    often = keeping.KeepingTimes(progress_seconds=0.01, settle_seconds=0.01, attempts=3)
    keeper = keeping.Keeper(made, [], JOB, settle=settling, times=often, ended=ended)
    yield keeper
    keeper.stop()


class TestSettling:
    def test_what_fails_after_the_disks_were_unmounted_is_repeated(
        self, kept: keeping.Keeper, settle: Callable[..., Settling], ended: threading.Event
    ) -> None:
        failure = VBoxManageError("no")

        class Unmounts(Settling):
            def __call__(self, *_: Any) -> str:
                ended.set()  # as the main thread does, when nothing is mounted any more
                return super().__call__()

        settling = settle("")
        settling.__class__ = Unmounts
        settling.results = [failure, failure, ""]
        kept.start()
        wait_for(lambda: settling.attempts)
        kept.stop()
        assert settling.attempts == 3

    def test_it_is_not_repeated_for_ever_and_its_reason_is_kept(
        self, made: BootNote, kept: keeping.Keeper, settle: Callable[..., Settling]
    ) -> None:
        settling = settle(VBoxManageError("the registry is locked"))
        kept.start()
        wait_for(lambda: settling.attempts)
        kept.stop()
        assert settling.attempts == 3
        assert made.progress.read()["problem"] == "the registry is locked"
        assert progress(made).words == (
            "filled, not served: `vmbackup-admin boot --finish web`; the registry is locked"
        )

    def test_while_they_are_mounted_it_is_tried_until_it_works(
        self,
        kept: keeping.Keeper,
        settle: Callable[..., Settling],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
        settling = settle(VBoxManageError("away"))
        kept.start()
        wait_for(lambda: settling.attempts > 10)
        assert is_at_work()
        settling.results = [""]
        wait_for(lambda: not is_at_work())

    def test_another_process_that_works_on_it_is_not_waited_for(
        self, kept: keeping.Keeper, settle: Callable[..., Settling]
    ) -> None:
        settling = settle("another process works on it")
        kept.start()
        wait_for(lambda: settling.attempts)
        kept.stop()
        assert not is_at_work()


class TestNotes:
    def test_one_that_is_lost_is_noted_again(
        self, made: BootNote, kept: keeping.Keeper, settle: Callable[..., Settling]
    ) -> None:
        settle("it is running")
        shutil.rmtree(made.file.parent)
        kept.start()
        wait_for(made.file.exists)
        assert boot_note.read(made.file) == made

    def test_one_whose_vm_is_an_ordinary_one_is_not(
        self, made: BootNote, kept: keeping.Keeper, settle: Callable[..., Settling]
    ) -> None:
        settling = settle("it is running")
        (made.folder / scratch.MARK).unlink()
        made.file.unlink()
        kept.start()
        wait_for(lambda: settling.attempts > 3)
        kept.stop()
        assert not made.file.exists()

    def test_nothing_is_made_again_in_a_folder_that_was_removed(
        self, made: BootNote, kept: keeping.Keeper, settle: Callable[..., Settling]
    ) -> None:
        settle("it is running")
        shutil.rmtree(made.folder)
        kept.start()
        kept.stop()
        assert not made.folder.exists()

    def test_a_damaged_one_keeps_no_other_from_being_read(
        self, made: BootNote, caplog: pytest.LogCaptureFixture
    ) -> None:
        state = made.file.parent
        (state / f"boot-{'0' * 32}.json").write_text("{")
        assert boot_note.named(state, "web") == made
        assert boot_note.unfinished(state) == {made.uuid}
        assert [each.document["name"] for each in shown(state)] == ["web"]
        assert f"boot-{'0' * 32}.json cannot be read" in caplog.text

    @pytest.mark.parametrize("lost", [lambda file: file.unlink(), lambda file: file.write_text("")])
    def test_a_vm_whose_note_is_lost_is_unfinished_by_its_mark(
        self, made: BootNote, lost: Callable[[Path], object]
    ) -> None:
        machine: Any = SimpleNamespace(uuid=made.uuid, settings_file=str(made.folder / "web.vbox"))
        other: Any = SimpleNamespace(uuid="other", settings_file=machine.settings_file)
        lost(made.file)
        state = made.file.parent
        assert boot_note.unfinished(state) == frozenset()
        assert boot_note.unfinished(state, [machine, other]) == {made.uuid}
        scratch.write_mark(made.folder, scratch.Mark(f"vmbackup-{'a' * 32}", made.uuid))
        assert boot_note.unfinished(state, [machine]) == frozenset()
        (made.folder / scratch.MARK).unlink()
        assert boot_note.unfinished(state, [machine]) == frozenset()

    def test_the_same_is_beside_the_disks(self, made: BootNote) -> None:
        boot_note.advanced(made, Phase.RUNNING)
        beside = made.filling / "note.json"
        assert beside.read_bytes() == made.file.read_bytes()
        made.file.write_text("{")
        with pytest.raises(ConfigurationError) as raised:
            boot_note.read(made.file)
        assert "filling/note.json" in raised.value.hint


@pytest.fixture
def filling(made: BootNote) -> BootNote:
    """A VM whose disks are not whole yet; what serves them is this process."""
    made.whole.remove()
    own = ProcessIdentity.of(os.getpid())
    assert own
    told = {"pid": own.pid, "started": own.started, "born": own.born, "problem": ""}
    made.progress.write({**told, "filled": GIB, "total": 3 * GIB, "rate": 2.0**20})
    return made


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)

    def asked(_: object) -> bool:
        raise AssertionError("a mount whose server waits for the NAS answers nobody")

    monkeypatch.setattr(mounts, "is_served", asked)


@pytest.mark.usefixtures("mounted")
class TestProgress:
    def test_an_old_rate_is_not_told(self, filling: BootNote) -> None:
        assert progress(filling).rate == 2.0**20
        before = time.time() - 600
        os.utime(filling.progress.path, (before, before))
        found = progress(filling)
        assert (found.served, found.rate, found.seconds_left) == (True, 0, None)
        assert found.words.startswith(
            "1.0 GiB of 3.0 GiB filled 10 min ago, when its server was last heard of; nothing is "
            f"heard of its server, process {os.getpid()}: "
        )
        assert "rate" not in found.words
        (line,) = shown(filling.file.parent)
        assert (line.document["rate"], line.document["seconds_left"]) == (0, None)

    def test_a_full_disk_is_told_where_the_server_cannot_tell_it(
        self, filling: BootNote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.utime(filling.progress.path, (0, 0))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        assert "no room: nothing is free" in progress(filling).words

    def test_what_there_is_no_room_for(self, filling: BootNote) -> None:
        filling.progress.write({**filling.progress.read(), "short": 2 * GIB})
        found = progress(filling)
        assert found.words.endswith("1.0 MiB/s; no room for 2.0 GiB of it")
        assert found.seconds_left is None

    def test_a_server_that_is_gone_serves_nothing(self, filling: BootNote) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            own = ProcessIdentity.of(child.pid)
            assert own
            who = {"pid": own.pid, "started": own.started, "born": own.born}
            filling.progress.write({**filling.progress.read(), **who})
            assert progress(filling).served
            child.send_signal(signal.SIGKILL)
        found = progress(filling)
        assert (found.served, found.rate) == (False, 0)
        assert found.words == (
            "1.0 GiB of 3.0 GiB filled, and not served: `vmbackup-admin boot --finish web` goes on"
        )
        looks_like_an_option = progress(replace(filling, name="-x")).words
        assert "`vmbackup-admin boot --finish=-x` goes on" in looks_like_an_option

    def test_what_its_server_says_gets_no_older_while_it_lives(
        self, filling: BootNote, kept: keeping.Keeper, settle: Callable[..., Settling]
    ) -> None:
        settling = settle("it is running")
        kept.start()
        wait_for(lambda: settling.attempts)
        wait_for(lambda: progress(filling).words == "filled")
        os.utime(filling.progress.path, (0, 0))
        wait_for(lambda: progress(filling).age < 3600)

    def test_a_note_that_cannot_be_written_gets_old(
        self,
        filling: BootNote,
        kept: keeping.Keeper,
        settle: Callable[..., Settling],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        settling, tried = settle("it is running"), list[object]()
        os.utime(filling.progress.path, (0, 0))

        write = Note.write

        def full(note: Note, document: Any) -> None:
            if note.path == filling.whole.path:
                write(note, document)
                return
            tried.append(None)
            raise ConfigurationError("full")

        monkeypatch.setattr(Note, "write", full)
        kept.start()
        wait_for(lambda: settling.attempts > 3 and len(tried) > 3)
        kept.stop()
        assert filling.progress.path.stat().st_mtime == 0


def test_for_what_there_is_no_room_is_known_from_the_beginning(
    made: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk: Any = SimpleNamespace(blocks=3072, filled=1024, room=GIB)
    keeper = keeping.Keeper(made, [disk], JOB)
    assert keeper.doubts == [f"{made.filling} has no room for 1.0 GiB of it"]
    assert keeper.facts()["short"] == GIB
    disk.room = 2 * GIB
    assert keeper.doubts == []
