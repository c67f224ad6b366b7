"""The reserve of the database: how it is made, and that a full NAS takes a commit with it."""

import errno
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.host.errors import NasError
from shared.state.sessions.sweeping import sweep
from shared.state.store import inspection, reserve
from shared.state.store.database import Database
from shared.state.store.opening import open_database
from shared.state.store.state_files import StateFiles
from tests.unit.state.builders import HERE, StillClock, vm

LEAST = 4 << 20


class FullNas:
    """Nothing new can be written while the reserve is there.

    `others` have taken its room as soon as it was given up.
    """

    def __init__(self, database: Database, number: int, *, others: bool = False) -> None:
        self.root, self.number, self.others = database.root, number, others
        self.really = StateFiles.write_temporary

    @property
    def write(self) -> Callable[[StateFiles, str, bytes], None]:
        """What takes the place of `StateFiles.write_temporary`."""

        def write(files: StateFiles, name: str, data: bytes) -> None:
            if self.others or (self.root / reserve.NAME).exists():
                raise OSError(self.number, os.strerror(self.number), name)
            self.really(files, name, data)

        return write


def add(database: Database) -> None:
    database.commit_once(lambda contents: contents.with_vm(vm("web01")), "add", "test")


@pytest.mark.broad
def test_it_is_written_in_full_cannot_be_packed_and_is_left_alone(database: Database) -> None:
    database.keep_reserve(0)
    made = database.root / reserve.NAME
    data = made.read_bytes()
    assert len(data) == reserve.present(database.root) == LEAST
    assert len(zlib.compress(data, 1)) > len(data)
    assert os.listdir(database.root / "tmp") == []
    os.utime(made, (0, 0))
    assert sweep(database, database.head().contents) == []
    assert inspection.inspect(database.root).findings == ()
    database.keep_reserve(0)
    assert made.stat().st_mtime == 0, "the one that is there stays"


def test_its_size_follows_the_database_within_bounds(database: Database) -> None:
    newest = max((database.root / "gen").iterdir()).stat().st_size
    assert reserve.wanted(database.root, least=100) == 24 * newest
    assert reserve.wanted(database.root, least=100, most=1000) == 1000
    assert reserve.wanted(database.root) == LEAST


def test_a_part_of_one_is_made_whole(database: Database) -> None:
    (database.root / reserve.NAME).write_bytes(b"a power cut left this")
    database.keep_reserve(0)
    assert reserve.present(database.root) == reserve.wanted(database.root)


@pytest.mark.parametrize(
    ("free", "keep_free", "made"),
    [
        (2 * LEAST - 1, 0, False),
        (2 * LEAST, 0, True),
        ((1 << 30) + LEAST - 1, 1 << 30, False),
        ((1 << 30) + LEAST, 1 << 30, True),
    ],
)
def test_it_is_made_only_where_it_is_in_nobodys_way(
    database: Database, monkeypatch: pytest.MonkeyPatch, free: int, keep_free: int, *, made: bool
) -> None:
    room = SimpleNamespace(f_bavail=free, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    database.keep_reserve(keep_free)
    assert bool(reserve.present(database.root)) is made


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_was_not_made_leaves_nothing_and_stops_no_worker(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        database.keep_reserve(0)
    assert "could not be made" in caplog.text
    assert os.listdir(database.root / "tmp") == []
    assert reserve.present(database.root) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_it_is_given_up_for_those_commands_only(
    database: Database, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    database.keep_reserve(0)
    full = FullNas(database, number)
    monkeypatch.setattr(StateFiles, "write_temporary", full.write)
    with pytest.raises(NasError):
        add(database)
    assert reserve.present(database.root) == LEAST, "a worker does not touch it"
    database.may_give_up_reserve = True
    add(database)
    assert reserve.present(database.root) == 0
    assert "web01" in database.head().contents.vms
    assert (database.root / "vmtool-statedb").read_text() == "web01:CLEAN\n"


@pytest.mark.parametrize("had", [True, False])
def test_a_nas_that_stays_full_is_told_with_what_is_left_to_do(
    database: Database, clock: StillClock, monkeypatch: pytest.MonkeyPatch, *, had: bool
) -> None:
    if had:
        database.keep_reserve(0)
    full = FullNas(database, errno.ENOSPC, others=True)
    monkeypatch.setattr(StateFiles, "write_temporary", full.write)
    database.may_give_up_reserve = True
    with pytest.raises(NasError, match="No space left") as caught:
        add(database)
    assert "by hand" in caught.value.hint
    assert clock.slept, "what another host gave up is waited for"
    assert database.head().generation == 1


def test_other_errors_do_not_touch_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.keep_reserve(0)
    full = FullNas(database, errno.EROFS)
    monkeypatch.setattr(StateFiles, "write_temporary", full.write)
    database.may_give_up_reserve = True
    with pytest.raises(NasError, match="Read-only"):
        add(database)
    assert reserve.present(database.root) == LEAST


def test_a_name_for_which_there_is_no_room_is_told_at_once(
    database: Database, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generation was written; the directory has no room for one more name."""
    link = os.link

    def refuse(*call: object, **more: object) -> None:
        if (database.root / reserve.NAME).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(*call, **more)  # type: ignore[arg-type]

    database.keep_reserve(0)
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(NasError, match="No space left"):
        add(database)
    assert sum(clock.slept) < 1
    database.may_give_up_reserve = True
    add(database)
    assert "web01" in database.head().contents.vms


def test_a_heartbeat_that_found_no_room_leaves_nothing_and_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def refuse(*call: object) -> int:
        if (database.root / reserve.NAME).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*call)  # type: ignore[arg-type]

    database.keep_reserve(0)
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(NasError), database.session("prune"):
        pass
    assert os.listdir(database.root / "node") == []
    database.may_give_up_reserve = True
    with database.session("prune") as session:
        assert os.listdir(database.root / "node") == [session.id]


def test_a_newer_database_is_not_written(database: Database, tmp_path: Path) -> None:
    database.keep_reserve(0)
    newer = open_database(database.root, HERE, StillClock(), reading=True)
    newer.note_format("9.0")
    newer.may_give_up_reserve = True

    def full() -> None:
        raise NasError("full") from OSError(errno.ENOSPC, "full")

    with pytest.raises(NasError, match="full"):
        newer.with_room(full)
    assert reserve.present(database.root) == LEAST


def test_the_private_file_of_a_making_that_was_killed_goes_with_the_next_one(
    database: Database,
) -> None:
    left, other = (database.root / "tmp" / f"{reserve.NAME}.{name}" for name in ("left", "other"))
    for path in (left, other, foreign := database.root / "tmp" / "view.1"):
        path.write_bytes(b"x")
    long_ago = time.time() - 3600
    for path in (left, foreign):
        os.utime(path, (long_ago, long_ago))
    database.keep_reserve(0)
    assert reserve.present(database.root) == LEAST
    assert (left.exists(), other.exists(), foreign.exists()) == (False, True, True)
