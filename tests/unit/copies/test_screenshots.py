"""The screenshot of a copy: kept, moved, removed and counted with it, and never needed."""

import errno
import os
from dataclasses import replace

import pytest

from shared.copies import catalogue, permits, retention, screenshots, sidecar_files, transfer
from shared.copies.copy_files import NasFiles
from shared.copies.copying import Route
from shared.copies.moving import move_copies
from shared.copies.names import parse_final
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import Rehearsed
from tests.support import copies as make

STAMPS = ["20261121T203800Z-9", "20261122T203800Z-17"]
IMAGE = b"\x89PNG\r\n\x1a\n" + b"what the guest showed" * 100
WHEN = "2026-11-23T08:00:00Z"
DOORS = [NasFiles(), make.LinklessFiles(), make.TwoFileSystems()]
NAMES = ["renamed", "linkless", "copied"]


def rehearsed(directory, stamp, image=IMAGE) -> Sidecar:
    """A copy that was rehearsed, with a screenshot."""
    made = make.put_copy(directory, stamp, b"ova" + stamp.encode(), sides={"vbox": b"<x/>"})
    files = NasFiles()
    shot = screenshots.keep(files, directory, stamp, 30, image, WHEN)
    told = Rehearsed(WHEN, "beta", "good", "it ran", booted=True)
    made = replace(made, rehearsed=told, screenshot=shot)
    sidecar_files.replace(files, directory, made, 30)
    return made


def test_it_belongs_to_its_copy_and_is_no_copy(tmp_path):
    made = rehearsed(tmp_path, STAMPS[0])
    (copy,) = catalogue.read(tmp_path, None).copies
    assert (copy.good, copy.screenshot, copy.sidecar) == (True, True, made)
    assert catalogue.read(tmp_path, None).foreign == ()
    assert parse_final(f"{STAMPS[0]}.png") == (STAMPS[0], "png")
    os.unlink(tmp_path / f"{STAMPS[0]}.png")
    (copy,) = catalogue.read(tmp_path, None).copies
    assert (copy.good, copy.screenshot) == (True, False)


def test_without_its_copy_it_is_foreign_and_no_copy(tmp_path):
    (tmp_path / f"{STAMPS[0]}.png").write_bytes(IMAGE)
    found = catalogue.read(tmp_path, None)
    assert (found.copies, found.strange) == ((), (f"{STAMPS[0]}.png",))


def test_one_that_is_not_as_the_sidecar_says_is_passed_over(tmp_path):
    rehearsed(tmp_path, STAMPS[0])
    (tmp_path / f"{STAMPS[0]}.png").write_bytes(IMAGE + b"more")
    (copy,) = catalogue.read(tmp_path, None).copies
    assert (copy.good, copy.screenshot) == (True, False)


def test_that_of_an_earlier_rehearsal_is_not_shown_for_the_last_one():
    early = screenshots.Screenshot(WHEN, 1, "0" * 64)
    later = Rehearsed("2026-11-24T08:00:00Z", "beta", "good", "it ran", booted=True)
    made = make.sidecar(b"ova", rehearsed=later, screenshot=early)
    assert made.shown is None
    assert replace(made, rehearsed=replace(later, time=WHEN)).shown == early
    assert replace(made, rehearsed=None).shown is None


@pytest.mark.parametrize("image", [b"", b"GIF89a", IMAGE[:8] + bytes(screenshots.LIMIT_BYTES)])
def test_what_is_no_image_or_too_large_is_not_kept(image):
    assert screenshots.unusable(image)
    assert not screenshots.unusable(IMAGE)


def test_a_newer_one_takes_the_place_of_an_older_one(tmp_path):
    rehearsed(tmp_path, STAMPS[0])
    rehearsed(tmp_path, STAMPS[0], IMAGE + b"newer")
    assert (tmp_path / f"{STAMPS[0]}.png").read_bytes() == IMAGE + b"newer"
    assert [name for name in os.listdir(tmp_path) if "partial" in name] == []


@pytest.mark.parametrize("files", DOORS, ids=NAMES)
def test_it_is_moved_with_its_copy_there_and_back(tmp_path, files):
    here, there = tmp_path / "nas" / "web", tmp_path / "archive" / "web"
    there.parent.mkdir()
    for stamp in STAMPS:
        rehearsed(here, stamp)
    for source, target in ((here, there), (there, here)):
        moved = move_copies(files, Route(source, target, make.UUID, claim=31))
        assert (moved.stamps, moved.problems, source.exists()) == (tuple(STAMPS), (), False)
        assert [copy.screenshot for copy in catalogue.read(target, None).good] == [True, True]
        assert (target / f"{STAMPS[0]}.png").read_bytes() == IMAGE


@pytest.mark.parametrize("files", DOORS, ids=NAMES)
def test_one_that_somebody_changed_is_left_behind_and_its_copy_moves(tmp_path, files):
    here, there = tmp_path / "nas" / "web", tmp_path / "archive" / "web"
    there.parent.mkdir()
    rehearsed(here, STAMPS[0])
    (here / f"{STAMPS[0]}.png").write_bytes(b"short")
    moved = move_copies(files, Route(here, there, make.UUID, claim=31))
    assert (moved.problems, here.exists()) == ((), False)
    assert f"{STAMPS[0]}.png" not in os.listdir(there)


@pytest.mark.parametrize("files", DOORS, ids=NAMES)
@pytest.mark.parametrize("where", ["here", "there"])
def test_a_planted_one_of_terabytes_is_not_read(tmp_path, files, where, monkeypatch):
    here, there = tmp_path / "nas" / "web", tmp_path / "archive" / "web"
    made = rehearsed(here, STAMPS[0])
    there.mkdir(parents=True)
    name = f"{STAMPS[0]}.png"
    if where == "here":
        huge = replace(made.screenshot, size=1 << 40)
        sidecar_files.replace(files, here, replace(made, screenshot=huge), 30)
    read = []

    def hashed(directory, what):
        read.append((directory, what))
        return ""

    monkeypatch.setattr(transfer, "sha256_of", hashed)
    planted = (here if where == "here" else there) / name
    with planted.open("wb") as file:
        file.truncate(1 << 40)
    moved = move_copies(files, Route(here, there, make.UUID, claim=31))
    assert (moved.problems, here.exists(), read) == ((), False, [])
    found = os.listdir(there)
    assert name not in found if where == "here" else (there / name).read_bytes() == IMAGE


@pytest.mark.parametrize("refused", [errno.EIO, errno.ENOSPC, errno.ENAMETOOLONG])
@pytest.mark.parametrize("way", ["link", "create"])
def test_a_target_that_does_not_take_it_keeps_no_copy_from_moving(tmp_path, refused, way):
    class Refusing(NasFiles):
        def link(self, source, target, name):
            if name.endswith(".png"):
                raise OSError(refused if way == "link" else errno.EPERM, "refused", name)
            super().link(source, target, name)

        def create(self, directory, name):
            if ".png" in name:
                raise OSError(refused, "refused", name)
            return super().create(directory, name)

    here, there = tmp_path / "nas" / "web", tmp_path / "archive" / "web"
    there.parent.mkdir()
    rehearsed(here, STAMPS[0])
    moved = move_copies(Refusing(), Route(here, there, make.UUID, claim=31))
    assert (moved.stamps, moved.problems, here.exists()) == ((STAMPS[0],), (), False)
    assert f"{STAMPS[0]}.png" not in os.listdir(there)


@pytest.mark.broad
@pytest.mark.parametrize("door", [make.BreakingFiles, make.BreakingTwoFileSystems])
@pytest.mark.parametrize("after", [False, True])
def test_a_move_that_breaks_off_anywhere_is_finished_with_the_screenshot(tmp_path, door, after):
    operation, cut = 0, True
    while cut:
        root = tmp_path / str(operation)
        here, there = root / "nas" / "web", root / "archive" / "web"
        there.parent.mkdir(parents=True)
        rehearsed(here, STAMPS[0])
        way = Route(here, there, make.UUID, claim=31)
        try:
            move_copies(door(operation, after=after), way)
            cut = False
        except make.PowerCutError:
            pass
        files = make.TwoFileSystems() if door is make.BreakingTwoFileSystems else NasFiles()
        assert move_copies(files, way).problems == ()
        (copy,) = catalogue.read(there, None).copies
        assert (copy.good, copy.screenshot, here.exists()) == (True, True, False), operation
        operation += 1
    assert operation > 10


def test_it_goes_with_its_copy(tmp_path):
    for stamp in STAMPS:
        rehearsed(tmp_path, stamp)
    rules = retention.Rules(keep_last=1)
    assert retention.apply(NasFiles(), tmp_path, make.UUID, rules) == [STAMPS[0]]
    assert f"{STAMPS[0]}.png" not in os.listdir(tmp_path)
    assert f"{STAMPS[1]}.png" in os.listdir(tmp_path)


def test_one_whose_copy_an_older_program_removed_goes(tmp_path):
    rehearsed(tmp_path, STAMPS[1])
    (tmp_path / f"{STAMPS[0]}.png").write_bytes(IMAGE)
    retention.apply(NasFiles(), tmp_path, make.UUID, retention.Rules())
    assert [name for name in os.listdir(tmp_path) if name.endswith("png")] == [f"{STAMPS[1]}.png"]


def test_a_permit_for_it_is_given_only_if_nothing_needs_it(tmp_path):
    rehearsed(tmp_path, STAMPS[0])
    assert permits.unneeded_screenshot(tmp_path, STAMPS[0]) is None
    (tmp_path / f"{STAMPS[0]}.json").write_bytes(b"torn")
    assert permits.unneeded_screenshot(tmp_path, STAMPS[0]) is None
    os.unlink(tmp_path / f"{STAMPS[0]}.json")
    assert permits.unneeded_screenshot(tmp_path, STAMPS[0]) is None, "its .ova is there"
    for rest in ("ova", "sha256", "vbox"):
        os.unlink(tmp_path / f"{STAMPS[0]}.{rest}")
    permit = permits.unneeded_screenshot(tmp_path, STAMPS[0])
    assert permit is not None
    assert permit.names == {f"{STAMPS[0]}.png"}
    os.unlink(tmp_path / f"{STAMPS[0]}.png")
    os.mkdir(tmp_path / f"{STAMPS[0]}.png")
    assert permits.unneeded_screenshot(tmp_path, STAMPS[0]) is None, "no file"


def test_what_lies_in_its_place_keeps_no_copy_from_moving(tmp_path):
    here, there = tmp_path / "nas" / "web", tmp_path / "archive" / "web"
    there.parent.mkdir()
    make.put_copy(here, STAMPS[0])
    os.mkdir(here / f"{STAMPS[0]}.png")
    moved = move_copies(NasFiles(), Route(here, there, make.UUID, claim=31))
    assert (moved.stamps, moved.problems) == ((STAMPS[0],), ())
    assert os.listdir(here) == [f"{STAMPS[0]}.png"]
