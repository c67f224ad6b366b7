"""What the copies tell without a database: whose they are, and where."""

import json
import os
from pathlib import Path

import pytest

from shared.copies.survey import survey
from shared.host.configuration import Nas
from shared.host.errors import NasError
from tests.support import copies as make

OLD, NEW, LAST = "20261121T000000Z-9", "20261122T203800Z-17", "20261123T203800Z-18"
OTHER = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def nas(tmp_path: Path) -> Nas:
    (tmp_path / "vmstate" / "gen").mkdir(parents=True)
    (tmp_path / "archive").mkdir()
    return Nas(mountpoint=tmp_path)


def stamps(found):
    return [(copy.stamp, place.path.name, place.archived) for copy, place in found.copies]


def test_copies_are_told_apart_by_their_uuid_wherever_they_are(nas):
    make.put_copy(nas.mountpoint / "web", OLD, vm="web", node="alpha")
    make.put_copy(nas.mountpoint / "web", NEW, vm="web", node="beta", uuid=OTHER.upper())
    make.put_copy(nas.archive / "web", LAST, vm="web two", node="gamma", pinned="2026-11-23")
    found = survey(nas, archive=True)
    mine, other = found.vms[make.UUID], found.vms[OTHER]
    assert stamps(mine) == [(OLD, "web", False), (LAST, "web", True)]
    assert (mine.name, mine.node, mine.pinned) == ("web two", "gamma", (LAST,))
    assert (mine.directories, mine.highest_claim) == (("web",), 18)
    assert stamps(other) == [(NEW, "web", False)]
    assert (found.unknown, found.problems) == ((), ())
    assert survey(nas, archive=False).vms[make.UUID].copies == mine.copies[:1]


def test_an_empty_nas_has_no_vms_and_one_that_is_gone_is_an_error(nas):
    assert survey(nas, archive=True).vms == {}
    with pytest.raises(NasError):
        survey(replace_mountpoint(nas, nas.mountpoint / "file"), archive=False)


def replace_mountpoint(nas, place):
    place.write_text("no directory")
    return Nas(mountpoint=place)


def test_two_directories_of_one_vm_the_one_with_its_newest_copy_first(nas):
    make.put_copy(nas.mountpoint / "a", LAST)
    make.put_copy(nas.mountpoint / "b", OLD)
    assert survey(nas, archive=True).vms[make.UUID].directories == ("a", "b")


def test_what_does_not_say_whose_it_is_belongs_to_the_only_vm_there_or_to_nobody(nas):
    make.put_copy(nas.mountpoint / "one", OLD)
    make.put_copy(nas.mountpoint / "two", OLD, uuid=OTHER)
    make.put_copy(nas.mountpoint / "two", NEW)
    for directory in ("one", "two", "alone"):
        (nas.mountpoint / directory).mkdir(exist_ok=True)
        (nas.mountpoint / directory / f"{LAST}.ova").write_bytes(b"without a sidecar")
    found = survey(nas, archive=True)
    assert stamps(found.vms[OTHER]) == [(OLD, "two", False)]
    assert (LAST, "one", False) in stamps(found.vms[make.UUID])
    assert (LAST, "two", False) not in stamps(found.vms[make.UUID])
    assert [
        (place.path.name, [copy.stamp for copy in place.copies]) for place in found.unknown
    ] == [("alone", [LAST]), ("two", [LAST])]


@pytest.mark.parametrize(
    "uuid", ["", "web", "../../etc", "{" + OTHER + "}", OTHER.replace("-", "")]
)
def test_a_sidecar_without_a_uuid_is_nobodys(nas, uuid):
    make.put_copy(nas.mountpoint / "web", NEW, uuid=uuid)
    found = survey(nas, archive=True)
    assert found.vms == {}
    assert [copy.stamp for place in found.unknown for copy in place.copies] == [NEW]


def test_a_sidecar_that_is_none_is_nobodys(nas):
    make.put_copy(nas.mountpoint / "web", NEW)
    (nas.mountpoint / "web" / f"{NEW}.json").write_text(json.dumps({"schema": 1, "uuid": OTHER}))
    found = survey(nas, archive=True)
    assert (found.vms, [place.path.name for place in found.unknown]) == ({}, ["web"])


def test_half_published_copies_are_named(nas):
    live = nas.mountpoint / "web"
    make.put_copy(live, OLD)
    make.put_copy(live, NEW)
    os.rename(live / f"{NEW}.ova", live / f".{NEW}.17.partial.ova")
    make.put_copy(live, LAST)
    found = survey(nas, archive=True).vms[make.UUID]
    assert found.half_published == (NEW,)
    assert stamps(found) == [(OLD, "web", False), (LAST, "web", False)]


def test_a_first_copy_that_is_being_written_is_shown_as_nobodys(nas):
    (nas.mountpoint / "web").mkdir()
    (nas.mountpoint / "web" / f".{NEW}.17.partial.ova").write_bytes(b"half")
    found = survey(nas, archive=True)
    assert [len(place.catalogue.partials) for place in found.unknown] == [1]


def test_what_is_no_directory_of_a_vm_is_passed_over(nas):
    make.put_copy(nas.mountpoint / "vmstate", NEW)
    make.put_copy(nas.mountpoint / ".snapshot", NEW)
    make.put_copy(nas.mountpoint / "real", OLD)
    (nas.mountpoint / "link").symlink_to("real")
    (nas.mountpoint / "photos").mkdir()
    (nas.mountpoint / "notes.txt").write_text("mine")
    assert stamps(survey(nas, archive=True).vms[make.UUID]) == [(OLD, "real", False)]


def test_a_directory_that_cannot_be_looked_at_does_not_hide_the_others(nas, monkeypatch):
    make.put_copy(nas.mountpoint / "web", NEW)
    make.put_copy(nas.mountpoint / "broken", OLD, uuid=OTHER)
    from shared.copies import catalogue

    real = catalogue.look

    def failing(directory):
        if directory.name == "broken":
            raise PermissionError(13, "Permission denied", str(directory))
        return real(directory)

    monkeypatch.setattr(catalogue, "look", failing)
    found = survey(nas, archive=True)
    assert list(found.vms) == [make.UUID]
    assert len(found.problems) == 1
    assert str(nas.mountpoint / "broken") in found.problems[0]


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("web", "a copy of web"),
        ("web", "web.saved"),
        ("web-a5bb7405", "web-a5bb7405-saved"),
        ("first", "saved"),
    ],
)
def test_of_two_directories_with_the_newest_copy_the_one_of_its_name_is_first(nas, own, other):
    """`first` is what it was called when its older copy was made."""
    for directory in (own, other):
        make.put_copy(nas.mountpoint / directory, OLD, vm="first")
        make.put_copy(nas.mountpoint / directory, NEW, vm="web")
    make.put_copy(nas.mountpoint / other, "20261120T000000Z-8", vm="web")
    assert survey(nas, archive=True).vms[make.UUID].directories == (own, other)
