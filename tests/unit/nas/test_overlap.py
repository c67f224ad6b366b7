"""Places are compared as what they are.

By name, by where links lead, by device and inode, and by the mount table.
"""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.nas import overlap
from shared.nas.mount import Mount, parse_mounts
from shared.nas.overlap import (
    PLACE_TEST,
    Relation,
    compare,
    first_name_below,
    on_one_mount,
    relations,
    seen_in,
)

SAME, CONTAINS, INSIDE, APART = (frozenset({found}) for found in Relation)
OPPOSITE = {
    Relation.SAME: Relation.SAME,
    Relation.CONTAINS: Relation.INSIDE,
    Relation.INSIDE: Relation.CONTAINS,
    Relation.APART: Relation.APART,
}
ROOT = Mount("/", "ext4", "/dev/sda1", ("rw",), "8:1", "/")
PARTS = some.lists(some.sampled_from(["a", "b", "c"]), max_size=4)


@given(PARTS, PARTS)
def test_comparing_is_symmetrical_and_agrees_with_paths(one: list[str], other: list[str]) -> None:
    found = compare(one, other)
    assert compare(other, one) is OPPOSITE[found]
    first, second = PurePosixPath("/", *one), PurePosixPath("/", *other)
    assert (found is Relation.SAME) == (first == second)
    assert (found is Relation.CONTAINS) == (first in second.parents)
    assert (found is Relation.INSIDE) == (second in first.parents)


@given(PARTS, PARTS, PARTS)
@pytest.mark.slow
def test_two_mounts_of_one_export_show_one_place(
    export: list[str], below: list[str], elsewhere: list[str]
) -> None:
    """One mount of the export and one of a directory in it are compared like the paths on the
    server, whichever way they are mounted.
    """
    on_server = "/".join(["/srv", *export])
    deeper = "/".join([on_server, *below])
    for table in (
        [
            ROOT,
            Mount("/one", "nfs4", f"nas:{on_server}", (), "0:50"),
            Mount("/two", "nfs4", f"NAS:{deeper}", (), "0:51"),
        ],
        [
            ROOT,
            Mount("/one", "nfs", f"nas:{on_server}", (), "0:50"),
            Mount("/two", "nfs", f"nas:{deeper}", (), "0:51"),
        ],
        [
            ROOT,
            Mount("/one", "cifs", f"//nas{on_server}", (), "0:50"),
            Mount("/two", "cifs", f"//NAS{deeper}", (), "0:51"),
        ],
        [
            ROOT,
            Mount("/one", "xfs", "/dev/sdb", (), "8:16", on_server),
            Mount("/two", "xfs", "/dev/sdb", (), "8:16", deeper),
        ],
    ):
        expected = compare([*below, *elsewhere], [])
        assert relations(Path("/two", *elsewhere), Path("/one"), table) == {expected}
        assert relations(Path("/one"), Path("/two", *elsewhere), table) == {OPPOSITE[expected]}
        if below + elsewhere:
            assert first_names(table, elsewhere) == {(below + elsewhere)[0]}


def first_names(table: list[Mount], elsewhere: list[str]) -> frozenset[str]:
    return first_name_below(Path("/one"), Path("/two", *elsewhere), table)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (
            Mount("/one", "nfs4", "nas:/export", (), "0:50"),
            Mount("/two", "nfs4", "nas:/export2", (), "0:51"),
        ),
        (
            Mount("/one", "nfs4", "nas:/export", (), "0:50"),
            Mount("/two", "nfs4", "other:/export", (), "0:51"),
        ),
        (
            Mount("/one", "cifs", "//nas/share", (), "0:50"),
            Mount("/two", "cifs", "//nas/shared", (), "0:51"),
        ),
        (
            Mount("/one", "cifs", "//nas/share", (), "0:50", "/a"),
            Mount("/two", "cifs", "//nas/share", (), "0:50", "/b"),
        ),
        (
            Mount("/one", "nfs4", "nas:/export/a", (), "0:50"),
            Mount("/two", "nfs4", "nas:/export/b", (), "0:50"),
        ),
        (
            Mount("/one", "ext4", "/dev/sda1", (), "8:1", "/a"),
            Mount("/two", "ext4", "/dev/sda1", (), "8:1", "/ab"),
        ),
    ],
)
def test_what_only_looks_alike_is_apart(one: Mount, two: Mount) -> None:
    assert relations(Path("/one/x"), Path("/two/x"), [ROOT, one, two]) == APART


def test_a_link_counts_by_its_name_and_by_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "nas" / "vmstate").mkdir(parents=True)
    (tmp_path / "nas" / "archive").symlink_to(".")
    (tmp_path / "state").symlink_to("nas/vmstate")
    assert relations(tmp_path / "nas" / "archive", tmp_path / "nas") == SAME | INSIDE
    assert relations(tmp_path / "state", tmp_path / "nas") == INSIDE
    assert relations(tmp_path / "nas", tmp_path / "state" / "not" / "yet") == CONTAINS
    assert relations(tmp_path / "state", tmp_path / "nas" / "vmstate") == SAME
    assert relations(tmp_path / "state" / "x", tmp_path / "nas" / "vmstate" / "x") == SAME
    assert relations(tmp_path / "state" / "x", tmp_path / "nas" / "vmstate" / "y") == APART
    assert first_name_below(tmp_path / "nas", tmp_path / "state") == {"vmstate"}
    assert first_name_below(tmp_path / "nas", tmp_path / "elsewhere") == frozenset()


def test_the_last_of_the_mounts_at_a_place_counts() -> None:
    table = [
        ROOT,
        Mount("/one", "nfs4", "nas:/a", (), "0:50"),
        Mount("/one", "nfs4", "nas:/b", (), "0:51"),
        Mount("/two", "nfs4", "nas:/b", (), "0:52"),
    ]
    assert relations(Path("/one"), Path("/two"), table) == SAME
    assert on_one_mount(Path("/one/a"), Path("/one"), table)
    assert not on_one_mount(Path("/one"), Path("/two"), table)


def test_the_table_of_the_kernel_says_device_and_root() -> None:
    line = "44 27 254:0 /in\\040it /at\\040it rw,relatime shared:1 - ext4 /dev/vda rw,discard"
    (mount,) = parse_mounts(line)
    assert (mount.path, mount.device, mount.root, mount.source) == (
        "/at it",
        "254:0",
        "/in it",
        "/dev/vda",
    )


def test_what_is_written_in_one_place_is_looked_for_in_the_others(tmp_path: Path) -> None:
    one, other, link = tmp_path / "one", tmp_path / "other", tmp_path / "link"
    one.mkdir()
    other.mkdir()
    link.symlink_to("one")
    assert seen_in(one, [other, tmp_path / "none"]) is None
    assert seen_in(one, [other, link]) == link
    assert not list(one.iterdir())


def test_what_killed_tests_have_left_goes_and_a_test_that_was_disturbed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, link = tmp_path / "one", tmp_path / "link"
    one.mkdir()
    link.symlink_to("one")
    (one / f"{PLACE_TEST}.killed").write_text("")
    disturbed = []

    def write(path: Path, data: bytes) -> None:
        assert not (one / f"{PLACE_TEST}.killed").exists()
        if len(disturbed) < 3:
            disturbed.append(path)  # another test has removed it before it was looked for
        else:
            path.write_bytes(data)

    monkeypatch.setattr(overlap, "write_new_file", write)
    assert seen_in(one, [link]) == link
    assert len(disturbed) == 3
    disturbed[:] = []
    with pytest.raises(OSError, match="others try out the same place"):
        seen_in(one, [link], attempts=3)
    assert not list(one.iterdir())
