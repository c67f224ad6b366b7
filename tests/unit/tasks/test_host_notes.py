"""Notes in the state directory of a host, whatever is in them: an error of ours or a right answer.

What was noted for a VM that runs from a copy, for one that is restored, and for disks that are
being put in place decides what is removed and started.
"""

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some

from shared.host.documents import read_own
from shared.host.errors import ConfigurationError, ExitCode, VmBackupError
from shared.state.sessions.worker_ends import note_end, read_ends
from shared.tasks import abandoned_imports, boot_note, disk_swap, import_note
from shared.tasks.swap_note import SwapNote
from tests.unit.nas.test_swapped import ONE, READS, WITH, swapped
from tests.unit.state.builders import StillClock
from tests.unit.test_any_bytes import near
from tests.unit.test_every_document import odd_json

WHEN = "2026-11-22T20:38:00Z"
DISK = {"place": "/v/a.vdi", "new": "/v/a.new", "old": "/v/a.old", "before": 7, "after": 0}
NOTES: dict[str, dict[str, Any]] = {
    "boot-1.json": {
        "folder": "/v/web01",
        "disks": [{"member": "d.vmdk", "uuid": "u", "file": "d.vdi"}],
        "phase": "running",
        **dict.fromkeys(("name", "uuid", "vm", "key", "stamp", "index", "since"), "web01"),
    },
    "restore-1.json": {
        "folder": "/v/web01",
        "name": "web01",
        "uuid": "u",
        "disks": ["d.vdi"],
        "place": "/v/x",
        "parents": ["/v"],
    },
    "into-1.json": {"uuid": "u", "name": "web01", "stamp": "s", "disks": [DISK, DISK], "done": ""},
}


def _boot(path: Path) -> object:
    note = boot_note.read(path)
    return note and (note.server, note.is_whole, note.place, note.mark, note.server_lock)


def _swap(path: Path) -> object:
    note = SwapNote(path)
    swap = note.read()
    return swap and (disk_swap.resume(note, swap, WHEN), disk_swap.left_of_old(swap))


READ: dict[str, Callable[[Path], object]] = {
    "boot-1.json": _boot,
    "restore-1.json": import_note.read,
    "into-1.json": _swap,
}


@some.composite
def spoilt(draw: some.DrawFn, name: str) -> bytes:
    """The note with one value, at any depth, that is anything, or with its bytes damaged."""
    whole = json.loads(json.dumps(NOTES[name]))
    place: Any = whole
    while isinstance(place, dict | list) and place:
        at = draw(some.sampled_from(sorted(place) if isinstance(place, dict) else [0]))
        if isinstance(place[at], dict | list) and place[at] and draw(some.booleans()):
            place = place[at]
            continue
        place[at] = draw(odd_json | some.sampled_from(["a\0b", "../x", "x" * 5000, [], {}, 2**70]))
        break
    return draw(some.just(json.dumps(whole).encode()) | near(json.dumps(NOTES[name]).encode()))


@pytest.mark.broad
@pytest.mark.parametrize("name", NOTES)
def test_any_note_is_read_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = tmp_path_factory.mktemp("notes")

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(spoilt(name))
    @example(b"[" * 100_000)
    @example(json.dumps({**NOTES["into-1.json"], "disks": []}).encode())
    def reads(data: bytes) -> None:
        path = folder / name
        path.write_bytes(data)
        with contextlib.suppress(VmBackupError):
            READ[name](path)

    path = folder / name
    path.write_text(json.dumps(NOTES[name]))
    try:
        assert READ[name](path), "the whole one is read"
    except disk_swap.SwapError:
        assert name == "into-1.json", "its disks are away"
    reads()


@given(near(json.dumps({"worker": "verify", "code": 13, "when": WHEN}).encode()))
def test_any_note_of_an_end_is_one_or_none(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    state, nas = tmp_path_factory.mktemp("state"), Path("/nas")
    note_end(state, nas, "verify", ExitCode.NAS, StillClock())
    (path,) = state.iterdir()
    path.write_bytes(data)
    assert all(type(end.code) is int for end in read_ends(state, nas).values())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("other", [name for name in WITH if name not in ("a link", "another file")])
def test_a_note_that_is_exchanged_while_it_is_read_is_read_whole(
    tmp_path: Path, other: str
) -> None:
    path, found = tmp_path / "note", set()
    path.write_bytes(ONE)
    with swapped(path, WITH[other]):
        for number in itertools.count():
            with contextlib.suppress(OSError):
                found.add(read_own(path))
            if number > READS and ONE in found:
                break
    assert found <= {ONE}


def test_a_pipe_or_device_in_the_place_of_a_note_is_not_waited_for(tmp_path: Path) -> None:
    for name, read in READ.items():
        for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
            path = tmp_path / name
            make(path)
            with pytest.raises(VmBackupError, match=r"cannot (be )?read"):
                read(path)
            path.rename(tmp_path / f"done-{len(list(tmp_path.iterdir()))}")


def test_a_state_directory_that_cannot_be_written_is_said_to_be_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not hidden by what is tidied up afterwards."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with (
        pytest.raises(ConfigurationError, match="cannot be used: Read-only file system"),
        abandoned_imports.working(tmp_path, tmp_path / "restore-x.json"),
    ):
        pass
