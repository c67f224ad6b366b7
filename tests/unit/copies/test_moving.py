import errno
import os
from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.copies.copy_files import NasFiles
from shared.copies.copying import Route
from shared.copies.moving import UnmovedCopy, move_copies
from shared.host.errors import LockLostError, NasError
from tests.support import copies as make

STAMPS = ["20261121T203800Z-9", "20261122T203800Z-17"]
DATA = b"the bytes of an ova" * 100
SIDES = {"vbox": b"<VirtualBox/>", "sav": b"memory" * 100}


def route(root, **changes):
    return Route(
        **{
            "source": root / "nas" / "web",
            "target": root / "archive" / "web",
            "uuid": make.UUID,
            "claim": 30,
            **changes,
        }
    )


def filled(root):
    for stamp in STAMPS:
        make.put_copy(root / "nas" / "web", stamp, DATA + stamp.encode(), sides=SIDES)
    (root / "archive").mkdir(parents=True)


def assert_moved(root, source="nas", target="archive"):
    found = catalogue.read(root / target / "web", None)
    assert [copy.stamp for copy in found.good] == STAMPS
    assert (found.partials, found.foreign) == ((), ())
    assert len(os.listdir(root / target / "web")) == 10
    for stamp in STAMPS:
        assert (root / target / "web" / f"{stamp}.ova").read_bytes() == DATA + stamp.encode()
    assert not (root / source / "web").exists()


def whole_somewhere(root, stamp):
    return any(
        (copy := catalogue.read(root / side / "web", None).find(stamp))
        and copy.good
        and (root / side / "web" / f"{stamp}.ova").read_bytes() == DATA + stamp.encode()
        for side in ("nas", "archive")
    )


@pytest.mark.parametrize(
    "files",
    [NasFiles(), make.LinklessFiles(), make.TwoFileSystems()],
    ids=["renamed", "linkless", "copied"],
)
def test_there_and_back(tmp_path, files):
    filled(tmp_path)
    assert move_copies(files, route(tmp_path)).stamps == tuple(STAMPS)
    assert_moved(tmp_path)
    assert move_copies(files, route(tmp_path)).stamps == tuple(STAMPS)
    assert_moved(tmp_path)
    back = Route(tmp_path / "archive" / "web", tmp_path / "nas" / "web", make.UUID, claim=31)
    assert move_copies(files, back).problems == ()
    assert_moved(tmp_path, "archive", "nas")


def test_real_file_systems(tmp_path):
    here = tmp_path.stat().st_dev
    others = (Path(name) for name in ("/dev/shm", "/var/tmp", "/tmp"))
    other = next((path for path in others if path.is_dir() and path.stat().st_dev != here), None)
    if other is None:
        pytest.skip("needs a second file system")
    shared = other / f"vmbackup-test-{os.getpid()}"
    shared.mkdir()
    try:
        filled(tmp_path)
        done = []
        assert (
            move_copies(
                NasFiles(),
                route(
                    tmp_path,
                    target=shared / "web",
                    progress=lambda now, total: done.append((now, total)),
                ),
            ).problems
            == ()
        )
        assert done
        assert len(catalogue.read(shared / "web", None).good) == 2
        assert (
            move_copies(
                NasFiles(), Route(shared / "web", tmp_path / "archive" / "web", make.UUID, claim=31)
            ).problems
            == ()
        )
        assert_moved(tmp_path)
    finally:
        for path in (shared / "web").glob("*"):
            path.unlink()
        for path in (shared / "web", shared):
            if path.exists():
                path.rmdir()


@pytest.mark.parametrize("files", [NasFiles(), make.TwoFileSystems()], ids=["renamed", "copied"])
def test_another_file_of_the_same_stamp_is_reported_and_nothing_is_lost(tmp_path, files):
    filled(tmp_path)
    make.put_copy(tmp_path / "archive" / "web", STAMPS[0], b"another copy")
    moved = move_copies(files, route(tmp_path))
    assert [problem.stamp for problem in moved.problems] == [STAMPS[0]]
    assert "another file of that name" in moved.problems[0].reason
    assert (tmp_path / "nas" / "web" / f"{STAMPS[0]}.ova").read_bytes() == DATA + STAMPS[0].encode()
    assert (tmp_path / "archive" / "web" / f"{STAMPS[0]}.ova").read_bytes() == b"another copy"
    assert catalogue.read(tmp_path / "archive" / "web", None).find(STAMPS[1]).good


def test_a_damaged_target_does_not_take_the_good_source_with_it(tmp_path):
    filled(tmp_path)
    make.put_copy(tmp_path / "archive" / "web", STAMPS[0], DATA + STAMPS[0].encode())
    (tmp_path / "archive" / "web" / f"{STAMPS[0]}.ova").write_bytes(
        b"!" + (DATA + STAMPS[0].encode())[1:]
    )
    assert move_copies(NasFiles(), route(tmp_path)).problems[0].stamp == STAMPS[0]
    assert whole_somewhere(tmp_path, STAMPS[0])


def test_damage_is_found_before_a_copy_on_another_file_system_counts(tmp_path):
    filled(tmp_path)
    path = tmp_path / "nas" / "web" / f"{STAMPS[0]}.ova"
    path.write_bytes(b"!" + path.read_bytes()[1:])
    moved = move_copies(make.TwoFileSystems(), route(tmp_path))
    assert moved.problems == (
        UnmovedCopy(STAMPS[0], f"{STAMPS[0]}.ova is damaged: its digest is wrong"),
    )
    assert path.exists()
    assert not (tmp_path / "archive" / "web" / f"{STAMPS[0]}.ova").exists()
    assert catalogue.read(tmp_path / "archive" / "web", None).partials == ()


def test_another_side_file_at_the_target_is_reported_and_nothing_is_lost(tmp_path):
    filled(tmp_path)
    (tmp_path / "archive" / "web").mkdir()
    (tmp_path / "archive" / "web" / f"{STAMPS[0]}.sav").write_bytes(b"MEMORY" * 100)
    moved = move_copies(NasFiles(), route(tmp_path))
    assert [problem.stamp for problem in moved.problems] == [STAMPS[0]]
    assert (tmp_path / "nas" / "web" / f"{STAMPS[0]}.sav").read_bytes() == SIDES["sav"]


def test_a_damaged_side_file_is_found_before_it_is_copied(tmp_path):
    filled(tmp_path)
    (tmp_path / "nas" / "web" / f"{STAMPS[0]}.sav").write_bytes(b"MEMORY" * 100)
    moved = move_copies(make.TwoFileSystems(), route(tmp_path))
    assert moved.problems == (
        UnmovedCopy(STAMPS[0], f"{STAMPS[0]}.sav is damaged: its digest is wrong"),
    )
    assert (tmp_path / "nas" / "web" / f"{STAMPS[0]}.ova").exists()


def test_what_is_no_copy_stays(tmp_path):
    filled(tmp_path)
    source = tmp_path / "nas" / "web"
    (source / "notes.txt").write_text("mine")
    (source / "20261123T203800Z-20.ova").write_bytes(b"no sidecar")
    (source / "20261124T203800Z-21.json").write_bytes(
        make.sidecar(b"", "20261124T203800Z-21").render()
    )
    (source / "20261125T203800Z-22.ova").symlink_to("/etc/passwd")
    (source / "20261126T203800Z-23.ova").write_bytes(b"x")
    (source / "20261126T203800Z-23.json").write_bytes(b"{")
    moved = move_copies(NasFiles(), route(tmp_path))
    assert moved.stamps == tuple(STAMPS)
    assert moved.problems == (
        UnmovedCopy("20261123T203800Z-20", "it has no sidecar"),
        UnmovedCopy("20261124T203800Z-21", "its .ova is missing"),
        UnmovedCopy("20261125T203800Z-22", "20261125T203800Z-22.ova is no ordinary file"),
        UnmovedCopy("20261126T203800Z-23", "the sidecar is no JSON object"),
    )
    assert len(os.listdir(source)) == 6


def test_whoever_is_overtaken_meets_a_stale_handle_and_looks_again(tmp_path):
    """An archiver that was frozen wakes up before its rename, when another host has moved
    everything and removed the directory.
    """
    filled(tmp_path)

    class Overtaken(NasFiles):
        def move(self, source, target, name):
            move_copies(NasFiles(), route(tmp_path, claim=31))
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)

    assert move_copies(Overtaken(), route(tmp_path)).stamps == tuple(STAMPS)
    assert_moved(tmp_path)


def test_a_handle_that_stays_stale_is_an_error(tmp_path):
    filled(tmp_path)

    class Stale(NasFiles):
        def move(self, source, target, name):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)

    with pytest.raises(NasError, match="Stale file handle"):
        move_copies(Stale(), route(tmp_path))
    assert all(whole_somewhere(tmp_path, stamp) for stamp in STAMPS)


def test_a_claim_that_is_lost_in_the_middle_removes_nothing(tmp_path):
    filled(tmp_path)
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 4:
            raise LockLostError("taken over")

    with pytest.raises(LockLostError):
        move_copies(make.TwoFileSystems(), route(tmp_path, check=check))
    assert [copy.stamp for copy in catalogue.read(tmp_path / "nas" / "web", None).good] == STAMPS


def test_a_source_that_was_brought_back_since_it_was_verified_is_not_removed(tmp_path):
    """A displaced archiver wakes up before its last step, after an activate has put the only copy
    back under the same name.
    """
    filled(tmp_path)
    path = tmp_path / "nas" / "web" / f"{STAMPS[0]}.ova"

    brought_back = []

    class Late(make.TwoFileSystems):
        def rename(self, directory, source, target):
            super().rename(directory, source, target)
            if target == path.name:
                os.utime(path, (1, 1))

    def check():
        if path.stat().st_mtime == 1:
            brought_back.append(1)
        if len(brought_back) > 1:
            raise LockLostError("taken over")

    with pytest.raises(LockLostError):
        move_copies(Late(), route(tmp_path, check=check))
    assert path.exists()


def test_a_full_target_is_found_before_anything_is_copied(tmp_path):
    filled(tmp_path)
    with pytest.raises(NasError, match="no room"):
        move_copies(make.TwoFileSystems(), route(tmp_path, reserve=1 << 60))
    assert [copy.stamp for copy in catalogue.read(tmp_path / "nas" / "web", None).good] == STAMPS


def test_links_in_place_of_directories_are_not_followed(tmp_path):
    filled(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "archive" / "web").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NasError):
        move_copies(NasFiles(), route(tmp_path))
    assert os.listdir(tmp_path / "elsewhere") == []


def test_nothing_to_move(tmp_path):
    (tmp_path / "archive").mkdir()
    assert move_copies(NasFiles(), route(tmp_path)) == move_copies(NasFiles(), route(tmp_path))
    assert os.listdir(tmp_path / "archive") == []
