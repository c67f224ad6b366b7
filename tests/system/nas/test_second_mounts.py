"""One directory of a NAS through two mounts is found to be one, whatever device and inode say, and
however it is mounted.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.testbed.nas.guest.system import MS_BIND, detach, mount
from shared.copies.archive_location import prove_apart
from shared.host.configuration import Nas
from shared.host.errors import ConfigurationError
from shared.nas.mount import mount_of, mount_table
from shared.nas.overlap import Relation, relations, seen_in
from tests.system.nas.conftest import HOSTS, Share

pytestmark = pytest.mark.nas("guest")

#: Those of the test bed's mounts that show one directory of the server: NFS 4 and NFS 3 have one
#: export.
TOGETHER = {"nfs": ("nfs", "nfs3"), "nfs3": ("nfs", "nfs3"), "smb": ("smb",)}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts something at a new place, which goes with the test."""
    places: list[Path] = []

    def make(source: str, kind: str, options: str = "", flags: int = 0) -> Path:
        place = tmp_path / f"mounted-{len(places)}"
        mount(source, str(place), kind, options, flags)
        places.append(place)
        return place

    yield make
    for place in places:
        detach(str(place))


def places(share: Share) -> list[Path]:
    """The share through every mount, first through the one of its own kind on host a."""
    found = [
        Path(f"/mnt/{kind}-{host}", share.name) for kind in TOGETHER[share.kind] for host in HOSTS
    ]
    return sorted(found, key=lambda place: str(place) != share.on("a"))


def test_what_is_written_through_one_mount_is_seen_through_every_other(share: Share) -> None:
    """Each of them has a server of its own name, so the mount table does not tell."""
    found = places(share)
    assert relations(found[0], found[1]) == {Relation.APART}
    for written, looked in itertools.permutations(found, 2):
        assert seen_in(written, [looked]) == looked
    os.mkdir(share.on("a", "within"))
    for place in found:
        os.listdir(place)
        assert seen_in(place, [place / "within"]) is None
        assert seen_in(place / "within", [place]) is None
        assert os.listdir(place) == ["within"]


def test_an_archive_that_is_the_nas_through_another_mount_is_refused(share: Share) -> None:
    for name in ("vmstate", "archive"):
        os.mkdir(share.on("a", name))
    mountpoint = Path(share.on("a"))
    for second in places(share)[1:]:
        os.listdir(second)
        for archive in (second, second / "vmstate"):
            with pytest.raises(ConfigurationError, match=r"nas\.archive_directory"):
                prove_apart(
                    Nas(mountpoint=mountpoint, archive_directory=archive, require_mount=False)
                )
        assert sorted(os.listdir(second)) == ["archive", "vmstate"]
        prove_apart(
            Nas(mountpoint=mountpoint, archive_directory=second / "archive", require_mount=False)
        )


def test_the_mount_table_tells_a_bind_mount_of_a_directory(
    share: Share, mounted: Callable[..., Path]
) -> None:
    top = Path(share.on("a"))
    for name in ("within", "besides"):
        os.mkdir(top / name)
    place = mounted(share.on("a", "within"), "", flags=MS_BIND)
    assert relations(place, top) == {Relation.INSIDE}
    assert relations(top, place / "x") == {Relation.CONTAINS}
    assert relations(place, top / "within") == {Relation.SAME}
    assert relations(place, top / "besides") == {Relation.APART}
    other = mounted(share.on("a", "besides"), "", flags=MS_BIND)
    assert relations(place, other) == {Relation.APART}


@pytest.mark.parametrize(
    "options", ["nosharecache,", ""], ids=["a device of its own", "one device if it can"]
)
def test_the_mount_table_tells_a_second_mount_of_a_directory_of_the_export(
    mounted: Callable[..., Path], options: str
) -> None:
    top = Path("/mnt/nfs-a")
    found = mount_of(str(top), list(mount_table()))
    assert found is not None
    server = found.source.partition(":")[0]
    name = f"second{len(options)}"
    os.mkdir(top / name)
    place = mounted(
        f"{server}:/nfs/{name}", "nfs4", f"{options}vers=4.2,addr={server},clientaddr={server}"
    )
    assert relations(place, top) == {Relation.INSIDE}
    assert relations(place, top / name) == {Relation.SAME}
    assert relations(place / "x", top / name / "y") == {Relation.APART}
    assert seen_in(place, [top / name]) == top / name
