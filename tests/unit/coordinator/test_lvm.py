"""Descriptions of LVM that no LVM writes: they end with an answer, and lead nowhere else."""

import random
import re
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as some

from coordinator.guest import lvm_labels, volume_groups
from coordinator.guest.advice import advice
from coordinator.guest.logical_volumes import LogicalVolume
from coordinator.guest.lvm_text import MOST_BYTES, LvmTextError, parse
from coordinator.guest.place_names import mounted_name, spoken
from coordinator.guest.signatures import ContentKind, recognise
from coordinator.guest.volume_groups import Slot, Volumes, find_volumes
from tests.support.lvm_disks import checksum, physical_volume

MIB = 1 << 20
FIRST, SECOND = "a" * 32, "b" * 32
TEXT = """# Generated
vg {
id = "gggggg-gggg-gggg-gggg-gggg-gggg-gggggg"
seqno = 7
format = "lvm2" # informational
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = 2048
physical_volumes {
pv0 {
id = "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa"
device = "/dev/sda \\"x\\""
pe_start = 2048
pe_count = 7
}
pv1 {
id = "bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb"
pe_start = 2048
pe_count = 7
}
}
logical_volumes {
root {
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 2
segment1 {
start_extent = 0
extent_count = 2
type = "striped"
stripe_count = 1
stripes = [
"pv0", 1
]
}
segment2 {
start_extent = 2
extent_count = 4
type = "striped"
stripe_count = 2
stripe_size = 128
stripes = [
"pv0", 4,
"pv1", 0
]
}
}
}
}
contents = "Text Format Volume Group"
version = 1
"""


def slot(place: str, data: bytes, disk: int = 1) -> Slot:
    return Slot(place, disk, 0, len(data), lambda at, length: data[at : at + length])


def found(text: str, *more: Slot, second: str | None = None) -> Volumes:
    """What is found on two disks with that description (or another one on the second)."""
    one = physical_volume(text.encode(), FIRST)
    other = physical_volume((text if second is None else second).encode(), SECOND)
    return find_volumes([slot("1.2", one), slot("2", other, 2), *more])


def problem(text: str) -> str:
    """Why the one volume of that description is not read."""
    volumes = found(text).found
    assert len(volumes) == 1
    assert volumes[0].size == 0
    return volumes[0].problem


class TestWhole:
    def test_where_the_bytes_are(self) -> None:
        (volume,) = found(TEXT).found
        assert (volume.name, volume.size, volume.problem) == ("vg/root", 6 * MIB, "")
        assert volume.places == {"1.2", "2"}
        stripe = 65536
        assert list(volume.pieces(2 * MIB - 5, 2 * stripe)) == [
            (1, 4 * MIB - 5, 5),
            (1, 5 * MIB, stripe),
            (2, MIB, stripe - 5),
        ]
        assert list(volume.pieces(6 * MIB - 1, 9)) == [(2, 3 * MIB - 1, 1)]
        assert list(volume.pieces(6 * MIB, 9)) == []

    @pytest.mark.parametrize("at", [512, 4096, MIB - 4096 - 100, MIB - 4096 - 1])
    def test_a_description_may_go_round_the_end_of_its_area(self, at: int) -> None:
        image = physical_volume(TEXT.encode(), FIRST, at=at)
        label = lvm_labels.read_label(lambda at, length: image[at : at + length], len(image))
        assert label == lvm_labels.Label(FIRST, (TEXT.encode(),))

    def test_it_is_recognised_and_its_checksum_is_that_of_lvm(self) -> None:
        image = physical_volume(TEXT.encode(), FIRST)
        kind = recognise(lambda at, length: image[at : at + length]).kind
        assert kind is ContentKind.LVM
        for data in (b"", b"x", bytes(range(256)) * 3):
            assert lvm_labels.checksum(data) == checksum(data)

    def test_the_newest_description_of_a_group_counts(self) -> None:
        newer = TEXT.replace("seqno = 7", "seqno = 8").replace("root {", "data {")
        for pair in ((TEXT, newer), (newer, TEXT)):
            assert [each.name for each in found(pair[0], second=pair[1]).found] == ["vg/data"]

    def test_one_that_does_not_name_its_own_disk_does_not_count(self) -> None:
        foreign = TEXT.replace("seqno = 7", "seqno = 8").replace("bbbbbb-bbbb", "cccccc-bbbb")
        assert [each.name for each in found(TEXT, second=foreign).found] == ["vg/root"]
        volumes = found(foreign, second=TEXT)  # the newer one, of which one disk is elsewhere
        assert "not in the copy" in volumes.found[0].problem
        assert volumes.notes == {
            "1.2": "volume group vg, 1 of 2 disks cannot be found",
            "2": "its volume group is described without it: it was taken out, or belongs elsewhere",
        }

    def test_two_groups_of_one_name_go_by_their_uuids(self) -> None:
        others = re.sub("aaaaaa-aaaa", "cccccc-aaaa", TEXT).replace("gggggg-", "hhhhhh-")
        others = others.replace("bbbbbb-bbbb", "dddddd-bbbb")
        more = [
            slot(place, physical_volume(others.encode(), uuid), 3)
            for place, uuid in (("3.1", "c" * 6 + "a" * 26), ("3.2", "d" * 6 + "b" * 26))
        ]
        names = [each.name for each in found(TEXT, *more).found]
        assert names == [f"{'g' * 32}/root", f"hhhhhh{'g' * 26}/root"]

    def test_a_disk_that_its_group_went_on_without_is_not_read(self) -> None:
        place = "pe_start = 2048\npe_count = 7\n}\npv1"
        assert place in TEXT
        gone = TEXT.replace(place, f'flags = ["MISSING"]\n{place}')
        assert "not in the copy" in problem(gone)

    def test_a_disk_that_is_there_twice_is_not_read(self) -> None:
        newer = TEXT.replace("seqno = 7", "seqno = 8")
        twin = slot("3", physical_volume(newer.encode(), FIRST), 3)
        volumes = found(TEXT, twin)
        assert [each.problem for each in volumes.found] == [
            "a part of it lies on a disk that is not in the copy, or twice"
        ]
        same = "another disk has the same LVM UUID: neither of them is read"
        notes = {"1.2": same, "3": same, "2": "volume group vg, 1 of 2 disks cannot be found"}
        assert volumes.notes == notes
        assert volumes.whole == set()

    def test_a_group_may_be_called_like_the_uuid_of_another(self) -> None:
        third = TEXT.replace("vg {", f"{'g' * 32} {{", 1).replace("gggggg-gggg-", "hhhhhh-gggg-")
        third = third.replace("aaaaaa-aaaa", "cccccc-aaaa").replace("bbbbbb-", "dddddd-")
        assert [each.name for each in find_volumes(pair(third)).found] == [f"{'g' * 32}/root"]
        names = {each.name for each in found(TEXT, *pair(third)).found}
        assert names == {"vg/root", f"hhhhhh{'g' * 26}/root"}

    def test_a_name_that_is_too_long_is_named(self) -> None:
        assert problem(TEXT.replace("root {", f"{'r' * 126} {{")) == "its name is too long"


def pair(text: str) -> list[Slot]:
    """Two further disks, of which that is the description."""
    uuids = ("c" * 6 + "a" * 26, "d" * 6 + "b" * 26)
    return [
        slot(f"3.{number}", physical_volume(text.encode(), uuid), 3)
        for number, uuid in enumerate(uuids, 1)
    ]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("stripe_count = 1", "stripe_count = 3", "its stripes are not described"),
        ("stripe_count = 1", "stripe_count = 0", "lacks stripe_count"),
        ('"pv0", 1\n', '"pv0", "pv1"\n', "its stripes are not described"),
        ('"pv0", 1\n', '"pv0", -1\n', "its stripes are not described"),
        ('"pv0", 1\n', '"pv0", 6\n', "lies outside its disk"),
        ('"pv0", 1\n', '"pv0", 999999999999999999\n', "lies outside its disk"),
        ('"pv0", 1\n', '"root", 0\n', "lies on other volumes"),
        ('"pv0", 1\n', '"pv9", 0\n', "lies on other volumes"),
        ("stripe_size = 128", "stripe_size = 0", "lacks stripe_size"),
        ("stripe_size = 128", "stripe_size = 1", "as large as that"),
        ("stripe_size = 128", "stripe_size = 100", "as large as that"),
        ("stripe_size = 128", "stripe_size = 8192", "as large as that"),
        ("extent_count = 4", "extent_count = 3", "its stripes are not described"),
        ("extent_count = 4", "extent_count = 99999999999", "its stripes are not described"),
        ("start_extent = 2", "start_extent = 1", "do not follow each other"),
        ("segment_count = 2", "segment_count = 3", "lacks a segment"),
        ("segment_count = 2", 'segment_count = "2"', "lacks segment_count"),
        ("segment_count = 2", "segment_count = 1000000", "lacks segment_count"),
        ("segment2 {", "segment3 {", "lacks a segment"),
        ('type = "striped"', 'type = "raid5_ls"', "of the type raid5_ls are not read"),
        ('type = "striped"', 'type = "\x1b[31m"', "of the type unknown are not read"),
        ('type = "striped"', "type = []", "of the type unknown are not read"),
    ],
)
def test_a_volume_that_cannot_be_has_a_problem(old: str, new: str, why: str) -> None:
    assert old in TEXT
    assert why in problem(TEXT.replace(old, new, 1))


@pytest.mark.parametrize("store", ["cow_store", "merging_store"])
@pytest.mark.parametrize("value", ["{ }", "= []", "= 7", '= "root"'])
def test_what_a_snapshot_names_may_be_anything(store: str, value: str) -> None:
    """What is no name is none, and takes nothing away from other volumes."""
    odd = f'odd {{\nsegment1 {{\ntype = "snapshot"\n{store} {value}\norigin {{ }}\n}}\n}}\n'
    (volume,) = found(TEXT.replace("root {", f"{odd}root {{")).found
    assert (volume.name, bool(volume.problem)) == ("vg/root", value == '= "root"')


def test_what_is_kept_of_many_disks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = (
        lvm_labels.Label(f"{number:032}", (TEXT.encode().ljust(MOST_BYTES) + b"%d" % number,))
        for number in range(300)
    )
    monkeypatch.setattr(volume_groups, "read_label", lambda *_: next(labels))
    slots = [slot(f"1.{number}", b"") for number in range(300)]
    tracemalloc.start()
    try:
        volumes = find_volumes(slots)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * MOST_BYTES
    assert list(volumes.notes.values()).count("there are too many disks of LVM") == 172


def repeated(count: int) -> str:
    """A volume of so many segments, all at one place of one disk."""
    again = "".join(
        f"segment{number} {{ start_extent = {2 * number - 2} extent_count = 2 "
        'type = "striped" stripe_count = 1 stripes = [ "pv0", 0 ] }\n'
        for number in range(1, count + 1)
    )
    start, end = TEXT.index("segment1 {"), TEXT.index("}\n}\ncontents")
    text = TEXT[:start] + again + "}\n" + TEXT[end:]
    return text.replace("segment_count = 2", f"segment_count = {count}")


def test_a_volume_is_not_larger_than_its_group() -> None:
    assert "larger than its group" in problem(repeated(19))
    assert found(repeated(5)).found[0].size == 10 * MIB
    twice = repeated(5).replace("bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb", FIRST)
    assert "larger than its group" in problem(twice)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("extent_size = 2048", "extent_size = 0"),
        ("extent_size = 2048", ""),
        ("pe_start = 2048", "pe_start = -1"),
        ("pe_start = 2048", 'pe_start = "2048"'),
        ("pe_count = 7", ""),
        ("physical_volumes {", "other {"),
        ("logical_volumes {", "other {"),
        ("seqno = 7", "seqno = x"),
        ("vg {", "../.. {"),
        ("vg {", "-vg {"),
        ("vg {", "vg = {"),
        ('id = "gggggg-gggg-', 'id = "../gggg-'),
        ("root {", "-root {"),
        ("root {", ".. {"),
        ('"VISIBLE"', '"HIDDEN"'),
        ("contents", "vg { }\ncontents"),
        ("contents", "}\ncontents"),
        ("version = 1", "version = [1, "),
        ("version = 1", 'version = "1'),
        ("version = 1", f"version = {'1' * 5000}"),
        ("version = 1", "version"),
        ("version = 1", "version = {}"),
        ("version = 1", "a { " * 100_000),
    ],
)
def test_a_group_that_cannot_be_has_no_volumes(old: str, new: str) -> None:
    assert old in TEXT
    volumes = found(TEXT.replace(old, new, 1))
    assert volumes.found == []
    assert set(volumes.notes) == {"1.2", "2"}


@pytest.mark.broad
def test_there_are_not_too_many_volumes() -> None:
    start = TEXT.index("root {")
    end = TEXT.index("}\n}\ncontents")
    many = "".join(TEXT[start:end].replace("root {", f"v{number} {{") for number in range(1500))
    volumes = found(TEXT[:start] + many + TEXT[end:])
    assert len(volumes.found) == 1000
    assert volumes.notes["1.2"] == "volume group vg: there are too many volumes"
    assert volumes.whole == set()


def test_a_description_is_not_read_that_is_too_long() -> None:
    with pytest.raises(LvmTextError, match="impossibly long"):
        parse(b" " * (MOST_BYTES + 1))


def _harm(image: bytearray, at: int) -> None:
    image[at] ^= 0xFF


@pytest.mark.parametrize(
    "harm",
    [
        lambda image: _harm(image, 700),  # the label
        lambda image: _harm(image, 4096 + 30),  # the header of the area
        lambda image: _harm(image, 4096 + 600),  # the description
        lambda image: image.__delitem__(slice(4096 + 700, None)),
        lambda image: image.__delitem__(slice(700, None)),
        lambda image: image.__delitem__(slice(2000, None)),
    ],
)
def test_what_is_damaged_or_cut_off_is_not_there(harm: Callable[[bytearray], None]) -> None:
    one, other = (bytearray(physical_volume(TEXT.encode(), uuid)) for uuid in (FIRST, SECOND))
    harm(one)
    volumes = find_volumes([slot("1", bytes(one)), slot("2", bytes(other), 2)])
    assert [each.name for each in volumes.found] == ["vg/root"]  # by that of the other disk
    assert find_volumes([slot("1", bytes(one))]).found == []


def within(volume: LogicalVolume, slots: Sequence[Slot]) -> None:
    """Whatever a volume says, its pieces are inside of what it lies on, and finished."""
    if volume.problem:
        assert (volume.size, list(volume.pieces(0, 9999))) == (0, [])
        return
    sizes = {each.disk: each.size for each in slots}
    assert 0 < volume.size <= sum(sizes.values())
    for at in (0, volume.size // 2, max(0, volume.size - 70_000)):
        pieces = list(volume.pieces(at, 70_000))
        assert sum(length for _, _, length in pieces) == min(70_000, volume.size - at)
        assert all(
            length > 0 and start >= 0 and start + length <= sizes[disk]
            for disk, start, length in pieces
        )


@pytest.mark.broad
@given(some.integers(0, 2**64))
def test_whatever_is_changed_in_a_description(seed: int) -> None:
    """With right checksums: numbers, words and lines are taken from elsewhere, or left out."""
    chance = random.Random(seed)
    tokens = re.findall(r"\s+|[A-Za-z0-9_.+-]+|.", TEXT)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(tokens))
        other = chance.choice([*tokens, "", "-1", "0", "1", "9" * 18, "\n", '"', "{", "}", "["])
        tokens[place : place + chance.randint(0, 2)] = [other]
    text = "".join(tokens)
    slots = [
        slot(str(disk), physical_volume(text.encode(), uuid, 4 * MIB + 512 * disk), disk)
        for disk, uuid in enumerate((FIRST, SECOND), 1)
    ]
    for volume in find_volumes(slots).found:
        within(volume, slots)


@pytest.mark.broad
@given(some.binary(max_size=300), some.integers(0, 600))
def test_whatever_is_in_a_label(data: bytes, at: int) -> None:
    image = bytearray(physical_volume(TEXT.encode(), FIRST, 64 * 1024))
    image[512 + at : 512 + at + len(data)] = data
    image[512 + 16 : 512 + 20] = checksum(bytes(image[512 + 20 : 1024])).to_bytes(4, "little")
    slots = [slot("1", bytes(image))]
    for volume in find_volumes(slots).found:
        within(volume, slots)


@given(some.binary(max_size=200))
def test_any_bytes_are_a_description_or_none(data: bytes) -> None:
    try:
        parse(data)
    except LvmTextError:
        return


def test_what_places_are_called() -> None:
    assert mounted_name("1") == "disk1.img"
    assert mounted_name("1.3") == "disk1.part3.img"
    assert mounted_name("a-b/c") == "a--b-c.img" != mounted_name("a/b-c")
    assert spoken("vg/root") == "volume vg/root"
    assert "DIR/vg-root.img /mnt" in advice("XFS", "web", "vg/root")
    assert "DIR/disk2.part1.img /mnt" in advice("btrfs", "web", "2.1")
