import os

import pytest

from shared.copies import catalogue
from shared.host.errors import NasError
from tests.support import copies as make

OLD, NEW = "20261121T000000Z-9", "20261122T203800Z-17"
OTHER = "00000000-0000-4000-8000-000000000001"


def test_a_directory_that_is_not_there_is_empty(tmp_path):
    assert catalogue.read(tmp_path / "gone", None) == catalogue.Catalogue(tmp_path / "gone")


def test_one_wrong_clock_does_not_change_the_order_but_makes_it_disputed(tmp_path):
    future = "20380101T000000Z-9"
    for stamp, written in ((future, 1), (NEW, 2)):
        make.put_copy(tmp_path, stamp)
        os.utime(tmp_path / f"{stamp}.ova", (written, written))
    found = catalogue.read(tmp_path, None)
    assert [copy.stamp for copy in found.good] == [future, NEW]
    assert found.latest_good == found.find(NEW)
    assert found.order_unknown == (future, NEW)


def test_a_copy_of_another_vm_never_counts(tmp_path):
    make.put_copy(tmp_path, OLD)
    make.put_copy(tmp_path, NEW, uuid=OTHER, vm="web")
    found = catalogue.read(tmp_path, make.UUID.upper())
    assert found.latest_good.stamp == OLD
    assert (found.find(NEW).ours, found.find(NEW).problem) == (
        False,
        f"it is a copy of another VM ({OTHER}, called web)",
    )
    assert catalogue.read(tmp_path, OTHER).latest_good.stamp == NEW


def test_a_number_out_of_bounds_never_counts_and_is_told(tmp_path):
    make.put_copy(tmp_path, NEW)
    make.put_copy(tmp_path, "20270101T000000Z-999999999999999")
    (tmp_path / "20260101T000000Z-18446744073709551615.ova").write_bytes(b"planted")
    (tmp_path / f"{OLD}.vbox").write_bytes(b"a settings file alone")
    found = catalogue.read(tmp_path, make.UUID)
    assert found.latest_good.stamp == NEW
    assert (
        found.find("20270101T000000Z-999999999999999").problem
        == "the number in its name is out of bounds"
    )
    assert found.strange == ("20260101T000000Z-18446744073709551615.ova", f"{OLD}.vbox")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda d: (d / f"{NEW}.json").unlink(), "it has no sidecar"),
        (lambda d: (d / f"{NEW}.ova").unlink(), "its .ova is missing"),
        (lambda d: (d / f"{NEW}.json").write_text("{"), "the sidecar is no JSON object"),
        (lambda d: (d / f"{NEW}.ova").write_bytes(b"short"), "its .ova has 5 bytes instead of 15"),
        (lambda d: (d / f"{NEW}.sav").write_bytes(b"short"), "its .sav has 5 bytes instead of 6"),
        (lambda d: (d / f"{NEW}.sav").unlink(), "its .sav is missing"),
    ],
)
def test_what_does_not_count(tmp_path, spoil, problem):
    make.put_copy(tmp_path, OLD)
    make.put_copy(tmp_path, NEW, sides={"sav": b"memory"})
    spoil(tmp_path)
    found = catalogue.read(tmp_path, None)
    assert found.find(NEW).problem == problem
    assert found.latest_good.stamp == OLD


def test_partial_and_foreign_files_and_links_are_told_apart(tmp_path):
    make.put_copy(tmp_path, OLD)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    make.put_copy(outside, NEW)
    (tmp_path / f".{NEW}.17.partial.ova").write_bytes(b"12345")
    (tmp_path / f"{NEW}.ova").symlink_to(outside / f"{NEW}.ova")
    (tmp_path / f"{NEW}.json").symlink_to(outside / f"{NEW}.json")
    (tmp_path / f".{NEW}.18.partial.ova").symlink_to("/etc/passwd")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f"{NEW}.sha256").mkdir()
    os.mkfifo(tmp_path / "20261122T203800Z-20.json")
    found = catalogue.read(tmp_path, None)
    assert [copy.stamp for copy in found.copies] == [OLD]
    assert [(part.name, part.partial.claim, part.size) for part in found.partials] == [
        (f".{NEW}.17.partial.ova", 17, 5)
    ]
    assert found.foreign == (f"{NEW}.sha256", "20261122T203800Z-20.json", "notes.txt")
    assert found.links == (f".{NEW}.18.partial.ova", f"{NEW}.json", f"{NEW}.ova")


def test_a_directory_that_is_a_link_is_refused(tmp_path):
    make.put_copy(tmp_path / "elsewhere", NEW)
    (tmp_path / "web").symlink_to("elsewhere")
    with pytest.raises(NasError, match="cannot look") as caught:
        catalogue.read(tmp_path / "web", None)
    assert "who put it there" in caught.value.hint
