"""The door to the NAS on real directories, for both ways of giving a generation its name.

And what the network does to them.
"""

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from shared.host.errors import InDoubtError, NasError
from shared.nas.nas_errors import nas_error
from shared.nas.writing import write_new_file
from shared.state.contents import Contents
from shared.state.states import State
from shared.state.store import protocol, readable_view
from shared.state.store import state_files as module
from shared.state.store.database import Database
from shared.state.store.layout import generation_name
from shared.state.store.operations import (
    KeepEditedView,
    ListGenerations,
    MoveToHistory,
    PublishGeneration,
    ReadGeneration,
    ReadTemporary,
    RemoveTemporary,
    ReplaceView,
    SyncGeneration,
    WriteTemporary,
)
from shared.state.store.protocol import Author
from shared.state.store.readable_view import render
from shared.state.store.snapshot import Snapshot
from shared.state.store.state_files import StateFiles
from tests.unit.state.builders import WHEN, StillClock, session, state_files, vm

PRIMITIVES = ["link", "directory"]


@pytest.fixture(params=PRIMITIVES)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> StateFiles:
    return state_files(tmp_path, request.param)


def commit(files: StateFiles, key: str, sequence: int = 1, identifier: str = "alpha.1") -> Snapshot:
    """Adds a VM."""

    def change(contents: Contents) -> Contents:
        return contents.with_vm(vm(key, State.NEW))

    return files.run(
        protocol.transact(Author(session(identifier), sequence, WHEN, f"add {key}"), change)
    )


class Disk:
    """A disk that refuses generation 2 once, or the directory then, or a private file."""

    def __init__(self, root: Path, kind: str, code: int) -> None:
        self.root, self.kind, self.code, self.refused = root, kind, code, 0
        self._fsync = os.fsync

    def fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not self.refused and any(
            os.path.samestat(status, os.stat(path)) for path in self._victims() if path.exists()
        ):
            self.refused += 1
            raise OSError(self.code, os.strerror(self.code))
        self._fsync(descriptor)

    def _victims(self) -> list[Path]:
        second = self.root / "gen" / generation_name(2)
        if self.kind == "private":
            return list((self.root / "tmp").iterdir())
        if self.kind == "directory":
            return [self.root / "gen"] if second.exists() else []
        return [second / "snapshot" if second.is_dir() else second]


def left(files: StateFiles, folder: str = "tmp") -> list[str]:
    """Names below `vmstate/`."""
    return sorted(os.listdir(files.root / folder))


class TestGenerations:
    def test_commits_are_read_back_and_leave_nothing_behind(self, files: StateFiles) -> None:
        for number, key in enumerate(("web01", "web02", "web03"), start=1):
            assert commit(files, key, number).generation == number + 1
        head = files.run(protocol.read_head())
        assert set(head.contents.vms) == {"web01", "web02", "web03"}
        assert left(files) == []

    def test_the_same_transaction_is_applied_once(self, files: StateFiles) -> None:
        first = commit(files, "web01")
        assert commit(files, "web01") == first

    def test_a_name_that_exists_is_not_replaced(self, files: StateFiles) -> None:
        first = files.perform(ReadGeneration(1))
        for operation in (
            WriteTemporary("x", b"other"),
            PublishGeneration("x", 1),
            RemoveTemporary("x"),
        ):
            assert files.perform(operation) is None
        assert files.perform(ReadGeneration(1)) == first
        assert left(files) == []

    def test_other_names_in_the_directory_are_passed_over(self, files: StateFiles) -> None:
        for name in (".nfs0001", "7", "x" * 20, "\u0663" * 20):
            (files.root / "gen" / name).touch()
        assert files.perform(ListGenerations()) == (1,)

    def test_a_symbolic_link_in_place_of_a_generation_is_not_followed(
        self, files: StateFiles, tmp_path: Path
    ) -> None:
        target = tmp_path / "secret"
        target.write_bytes(b"secret")
        name = files.root / "gen" / generation_name(2)
        if files.primitive == "directory":
            name.mkdir()
            name /= "snapshot"
        name.symlink_to(target)
        with pytest.raises(NasError):
            files.perform(ReadGeneration(2))

    def test_pruned_generations_are_in_the_history_and_the_head_stays(
        self, files: StateFiles
    ) -> None:
        for number in range(1, 6):
            commit(files, f"web0{number}", number)
        assert files.run(protocol.prune(2)) == (1, 2, 3, 4)
        assert set(files.perform(ListGenerations())) == {5, 6}
        assert left(files, "history/0000000") == [
            generation_name(number) for number in (1, 2, 3, 4)
        ]
        assert files.run(protocol.prune(2)) == ()

    def test_what_a_late_writer_put_below_the_window_never_replaces_history(
        self, files: StateFiles
    ) -> None:
        for number in range(1, 4):
            commit(files, f"web0{number}", number)
        original = files.perform(ReadGeneration(2))
        files.run(protocol.prune(1))
        for operation in (
            WriteTemporary("late", b"stray"),
            PublishGeneration("late", 2),
            RemoveTemporary("late"),
        ):
            files.perform(operation)
        assert files.run(protocol.prune(1)) == (2,)
        kept = files.root / "history" / "0000000" / generation_name(2)
        assert (
            kept / "snapshot" if files.primitive == "directory" else kept
        ).read_bytes() == original
        assert files.perform(ListGenerations()) == (4,)

    def test_two_pruners_at_once_lose_nothing(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other one moves the generation away, and a late writer fills its name, after this one
        has looked at the history.
        """
        commit(files, "web01")
        original = files.perform(ReadGeneration(1))
        other = StateFiles(files.root, StillClock(), files.primitive)
        real, calls = module.list_fresh, []

        def list_fresh(directory: Path) -> list[str]:
            names = real(directory)
            if directory.parent.name == "history" and not calls:
                calls.append(directory)
                other.perform(MoveToHistory(1))
                for operation in (
                    WriteTemporary("late", b"stray"),
                    PublishGeneration("late", 1),
                    RemoveTemporary("late"),
                ):
                    other.perform(operation)
            return names

        monkeypatch.setattr(module, "list_fresh", list_fresh)
        files.perform(MoveToHistory(1))
        kept = files.root / "history" / "0000000" / generation_name(1)
        assert (
            kept / "snapshot" if files.primitive == "directory" else kept
        ).read_bytes() == original

    def test_a_head_read_long_ago_is_not_built_upon(self, tmp_path: Path) -> None:
        clock = StillClock()
        files = state_files(tmp_path, "link", clock)
        files.perform(ListGenerations())
        files.perform(WriteTemporary("x", b"x"))
        clock.seconds += 3600
        files.perform(PublishGeneration("x", 2))
        assert files.perform(ReadGeneration(2)) is None


class TestUntrueAnswers:
    @pytest.mark.parametrize("code", [errno.EEXIST, errno.ENOENT, errno.EIO, errno.ETIMEDOUT])
    def test_a_publication_that_is_reported_failed_is_found(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        name = "link" if files.primitive == "link" else "rename"
        real = getattr(os, name)

        def lies(source: Path, target: Path, **options: bool) -> None:
            real(source, target, **options)
            if Path(target).parent.name == "gen":
                raise OSError(code, "lie")

        monkeypatch.setattr(os, name, lies)
        assert set(commit(files, "web01").contents.vms) == {"web01"}
        assert files.run(protocol.read_head()).generation == 2
        assert files.perform(ReadGeneration(2)) is not None, (
            "what was published is not taken away with the private file"
        )

    def test_a_publication_that_never_happens_ends_in_doubt(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            os, "link" if files.primitive == "link" else "rename", lambda *_, **__: None
        )
        monkeypatch.setattr(protocol, "ATTEMPTS", 3)
        monkeypatch.setattr(StateFiles, "remove_temporary", lambda *_: None)
        with pytest.raises(InDoubtError):
            commit(files, "web01")

    def test_a_publication_that_arrives_while_its_private_file_is_removed_is_whole_or_nothing(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The request was reported failed and still travels.

        The server runs it between the steps of the removal.
        """
        files.perform(WriteTemporary("x", b"content"))
        private = files.root / "tmp" / left(files)[0]
        target = files.root / "gen" / generation_name(2)
        real = os.unlink

        def unlink(path: Path) -> None:
            real(path)
            if not target.exists():
                with contextlib.suppress(FileNotFoundError):
                    (os.link if files.primitive == "link" else os.rename)(private, target)

        monkeypatch.setattr(os, "unlink", unlink)
        files.perform(RemoveTemporary("x"))
        assert files.perform(ReadGeneration(2)) in (None, b"content")
        assert not target.exists() or files.perform(ReadGeneration(2)) == b"content", (
            "an empty generation would stop everybody"
        )

    def test_removing_the_private_name_of_what_was_published_unnoticed_leaves_it_alone(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A client that was told of a failure still believes that its private directory is where it
        was.
        """
        files.perform(WriteTemporary("x", b"content"))
        private = files.root / "tmp" / left(files)[0]
        if files.primitive == "directory":
            known = os.lstat(private)
            os.rename(private, files.root / "gen" / generation_name(2))
            real = os.lstat
            monkeypatch.setattr(
                os, "lstat", lambda path: known if Path(path) == private else real(path)
            )
        else:
            os.link(private, files.root / "gen" / generation_name(2))
        files.perform(RemoveTemporary("x"))
        assert files.perform(ReadGeneration(2)) == b"content"

    def test_a_private_name_used_again_is_another_file(self, files: StateFiles) -> None:
        """A request on the first file may still be on its way, and must not publish the second."""
        files.perform(WriteTemporary("x", b"first"))
        (first,) = left(files)
        files.perform(WriteTemporary("x", b"second"))
        assert len(left(files)) == 2
        files.perform(PublishGeneration("x", 2))
        assert files.perform(ReadGeneration(2)) == b"second"
        assert first in left(files)

    def test_a_stale_handle_is_tried_again(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, failures = module.read_file, [errno.ESTALE, errno.EIO, errno.EINVAL]

        def read_file(path: Path, *limit: int) -> bytes:
            if failures:
                raise OSError(failures.pop(), "passing")
            return real(path, *limit)

        monkeypatch.setattr(module, "read_file", read_file)
        assert files.perform(ReadGeneration(1)) is not None
        assert failures == []

    def test_an_error_that_stays_is_reported(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_file(path: Path, *limit: int) -> bytes:
            raise OSError(errno.EIO, "Input/output error", str(path))

        monkeypatch.setattr(module, "read_file", read_file)
        with pytest.raises(NasError, match="Input/output error"):
            files.perform(ReadGeneration(1))


class TestDurability:
    def test_nothing_gets_its_name_before_it_is_on_the_disk(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A power cut of the NAS must not leave a generation that was named but not written."""
        order: list[str] = []
        for name in ("fsync", "link", "rename"):
            real = getattr(os, name)

            def noted(*arguments: object, real=real, name: str = name, **options: object) -> object:
                if threading.current_thread() is not threading.main_thread():
                    pass  # of a test before, whose heart still beats
                elif name == "fsync":
                    kind = "directory" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "file"
                    order.append(f"{kind} to disk")
                elif Path(arguments[1]).parent.name == "gen":
                    order.append("named")
                return real(*arguments, **options)

            monkeypatch.setattr(os, name, noted)
        commit(files, "web01")
        base = commits = ["directory to disk", "file to disk"]
        assert order == [*base, "file to disk", "named", *commits]

    def test_it_is_brought_to_disk_also_when_that_was_refused_at_first(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By SMB a name cannot be opened for a moment after it was linked."""
        real, failures = module.sync_name, [errno.EINVAL, errno.ESTALE]

        def failing(path: Path) -> bytes:
            if failures:
                raise OSError(failures.pop(), "not now")
            return real(path)

        monkeypatch.setattr(module, "sync_name", failing)
        assert files.perform(SyncGeneration(1)) == files.perform(ReadGeneration(1))
        assert not failures
        assert files.perform(SyncGeneration(2)) is None

    def test_a_commit_that_cannot_be_brought_to_disk_is_not_acknowledged(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(_: Path) -> None:
            if len(left(files, "gen")) == 2:
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(module, "sync_directory", refused)
        with pytest.raises(NasError):
            commit(files, "web01")

    @pytest.mark.parametrize("kind", ["file", "directory"])
    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
    def test_a_generation_that_the_disk_did_not_take_is_never_believed_later(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch, kind: str, code: int
    ) -> None:
        """The system reports an error of the disk once; the next flush of that name succeeds."""
        disk = Disk(files.root, kind, code)
        monkeypatch.setattr(os, "fsync", disk.fsync)
        for _ in range(2):
            with pytest.raises(NasError):
                commit(files, "web01")
        assert disk.refused == 1
        with pytest.raises(NasError):
            commit(files, "web02", 2)
        assert set(files.perform(ListGenerations())) == {1, 2}, "nothing is built upon it"
        again = StateFiles(files.root, StillClock(), files.primitive)
        assert commit(again, "web02", 1, "beta.1").generation == 3, "the next process goes on"

    def test_a_transaction_is_not_repeated_on_what_the_disk_did_not_take(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = Disk(database.root, "file", errno.EIO)
        monkeypatch.setattr(os, "fsync", disk.fsync)
        with pytest.raises(NasError, match="Input/output error"):
            database.commit_once(lambda contents: contents.with_vm(vm("web01")), "add", "test")

    def test_a_private_file_that_the_disk_did_not_take_is_written_anew(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = Disk(database.root, "private", errno.EIO)
        monkeypatch.setattr(os, "fsync", disk.fsync)
        head = database.commit_once(lambda contents: contents.with_vm(vm("web01")), "add", "test")
        assert (disk.refused, set(head.contents.vms)) == (1, {"web01"})
        assert os.listdir(database.root / "tmp") == []

    @pytest.mark.parametrize("refusal", [errno.EACCES, errno.EROFS])
    def test_what_may_only_be_read_is_flushed_as_well_as_that_goes(
        self, files: StateFiles, refusal: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another user's generation, on a NAS that gives files no group."""
        real = os.open

        def read_only(path: Path, flags: int, *mode: int, **more: int) -> int:
            if flags & os.O_RDWR:
                raise OSError(refusal, "refused")
            return real(path, flags, *mode, **more)

        monkeypatch.setattr(os, "open", read_only)
        assert files.perform(SyncGeneration(1)) == files.perform(ReadGeneration(1))

    def test_a_disk_that_fills_up_leaves_no_half_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_new_file(tmp_path / "x", b"data")
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize(
        ("code", "says"),
        [
            (errno.ENOSPC, "full"),
            (errno.EDQUOT, "quota"),
            (errno.EROFS, "read-only"),
            (errno.EACCES, "rights"),
            (errno.ENOENT, "mounted"),
            (errno.EIO, "doctor"),
        ],
    )
    def test_an_error_says_what_to_do(self, code: int, says: str) -> None:
        error = nas_error(
            OSError(code, os.strerror(code), "/nas/x"), "use the state database in /nas"
        )
        assert says in error.hint
        assert "/nas/x" in error.message


class TestView:
    def test_it_follows_the_head(self, files: StateFiles) -> None:
        head = commit(files, "web01")
        assert files.run(readable_view.publish_view("a")) is False
        assert (
            (files.root / "vmtool-statedb").read_bytes() == render(head.contents) == b"web01:NEW\n"
        )
        written = os.stat(files.root / "vmtool-statedb").st_ino
        assert files.run(readable_view.publish_view("a")) is False
        assert os.stat(files.root / "vmtool-statedb").st_ino == written, (
            "what is current is not written again"
        )
        assert left(files) == []

    @pytest.mark.broad
    def test_an_old_view_is_no_edit(self, files: StateFiles) -> None:
        commit(files, "web01", 1)
        files.run(readable_view.publish_view("a"))
        for number in range(2, 60):
            commit(files, f"web{number}", number)
        assert files.run(readable_view.publish_view("a")) is False

    def test_each_edit_is_kept_beside(self, files: StateFiles) -> None:
        commit(files, "web01")
        for text in ("web01:CLEAN\n", "web01:RUNNING\n"):
            (files.root / "vmtool-statedb").write_text(text)
            assert files.run(readable_view.publish_view("a")) is True
        kept = sorted(path.read_text() for path in files.root.glob("vmtool-statedb.edited-2-*"))
        assert kept == ["web01:CLEAN\n", "web01:RUNNING\n"]
        assert (files.root / "vmtool-statedb").read_text() == "web01:NEW\n"

    def test_a_view_that_was_deleted_comes_back(self, files: StateFiles) -> None:
        commit(files, "web01")
        assert files.run(readable_view.publish_view("a")) is False
        (files.root / "vmtool-statedb").unlink()
        assert files.run(readable_view.publish_view("a")) is False
        assert (files.root / "vmtool-statedb").read_text() == "web01:NEW\n"


def test_private_files_are_for_the_group_only(files: StateFiles) -> None:
    before = os.umask(0)
    try:
        commit(files, "web01")
        files.run(readable_view.publish_view("a"))
        files.perform(KeepEditedView(2, b"x"))
    finally:
        os.umask(before)
    for path in files.root.rglob("*"):
        if path.is_file() and generation_name(1) not in str(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660, path


def test_operations_are_counted(tmp_path: Path) -> None:
    files = state_files(tmp_path)
    files.counts.clear()
    files.run(protocol.read_head())
    assert files.counts == {"ListGenerations": 1, "ReadGeneration": 2}


def test_a_private_file_that_is_not_there_reads_as_none(files: StateFiles) -> None:
    assert files.perform(ReadTemporary("never")) is None
    with pytest.raises(NasError, match="No such file"):
        files.perform(ReplaceView("never"))
