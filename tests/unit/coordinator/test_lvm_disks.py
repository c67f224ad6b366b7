"""Files on logical volumes, which LVM's own programs made: compared by digest."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.mounting.shown_files import CopyView
from shared.host.errors import ExitCode
from tests.ordinary.mounts import possible
from tests.support import guest_disks, lvm_disks
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_mounting import fuse, mount

__all__ = ["fuse"]

pytestmark = pytest.mark.slow

OLD, NEW = "20261121T000000Z-9", "20261122T203800Z-17"
MIB = guest_disks.MIB
VOLUMES = {"vg-0/root": "ext4", "vg-0/home": "ext2", "vg-0/both": "FAT"}


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with two disks, of which the second one has no partitions, and what is in them.

    `root` lies in two segments on both disks, `home` in one, `both` in stripes; beside them are
    volumes of kinds that are not read.
    """
    if not possible():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("loop devices need root")
    folder = tmp_path_factory.mktemp("lvm")
    files = folder / "files"
    guest_disks.tree(files)
    first, second = folder / "first", folder / "second"
    for image in (first, second):
        image.touch()
        os.truncate(image, 64 * MIB)
    guest_disks.ext(folder / "root", files, "ext4", 28 * MIB)
    guest_disks.ext(folder / "home", files, "ext2")
    guest_disks.fat(folder / "both", files)
    with lvm_disks.lvm(folder, first, second) as lvm:
        lvm("pvcreate", "-y", "@1", "@2")
        lvm("vgcreate", "vg-0", "@1", "@2")
        lvm.volume("vg-0", "root", 3, "@1")
        lvm.volume("vg-0", "home", 6, "@1")
        lvm("lvextend", "-l", "+4", "vg-0/root", "@2")
        lvm.volume("vg-0", "both", 6, "-i", "2", "-I", "64k")
        lvm.describe("vg-0", lvm_disks.UNREAD, folder)
        for name in ("root", "home", "both"):
            lvm.fill(f"vg-0/{name}", (folder / name).read_bytes())
    boot = guest_disks.ext(folder / "boot", files, "ext4")
    guest_disks.disk(folder / "disk1", [boot, first])
    (folder / "ova").write_bytes(guest_disks.as_copy(folder / "disk1", second))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def copied(site_with_database: Operator, disks: Path) -> Operator:
    """A VM with a copy of these disks."""
    site_with_database.add_vms("web")
    put_copy(site_with_database.nas / "web", NEW, (disks / "ova").read_bytes())
    return site_with_database


def test_every_file_on_every_volume_is_what_it_was(
    copied: Operator, disks: Path, tmp_path: Path
) -> None:
    rows = {row["place"]: row for row in copied.json("files", "web")["systems"]}
    readable = {place: row["type"] for place, row in rows.items() if row["readable"]}
    assert readable == {"1.1": "ext4", **VOLUMES}
    want = guest_disks.digests(disks / "files")
    for place in VOLUMES:
        folder = tmp_path / place.replace("/", "_")
        folder.mkdir()
        document = copied.json("files", "web", "/", "--disk", place, "--get", str(folder))
        assert (document["problems"], document["disk"]) == ([], place)
        (fetched,) = folder.iterdir()
        assert guest_disks.digests(fetched) == want, place


def test_what_is_not_read_is_named_with_why_and_what_to_do(copied: Operator) -> None:
    rows = {row["place"]: row for row in copied.json("files", "web")["systems"]}
    unread = {place: row for place, row in rows.items() if not row["readable"]}
    assert {place: row["note"] for place, row in unread.items()} == {
        "1.2": "volume group vg-0",
        "2": "volume group vg-0",
        "vg-0/pool": "volumes of the type thin-pool are not read",
        "vg-0/thin": "volumes of the type thin are not read",
        "vg-0/cow": "it is a snapshot, or one is merged into it",
    }
    assert {row["type"] for row in unread.values()} == {"LVM"}
    assert "restore web --disk N --to diskN.img" in unread["vg-0/thin"]["advice"]
    assert "vgchange -ay" in unread["vg-0/thin"]["advice"]
    assert unread["1.2"]["advice"] == ""
    shown = copied.admin("files", "web").stdout
    assert (
        "volumes of the type thin are not read; for each disk of its group: vmbackup-admin restore"
        in shown
    )
    refused = copied.admin("files", "web", "/x", "--disk", "vg-0/thin")
    assert (refused.exit_code, "the type thin" in refused.stderr) == (ExitCode.FAILURE, True)


def test_a_path_is_looked_up_in_all_volumes(copied: Operator) -> None:
    several = copied.admin("files", "web", "/hello.txt")
    assert several.exit_code == ExitCode.USAGE
    for place in ("1.1", *VOLUMES):
        assert f"{place} (" in several.stderr
    on_second = copied.admin("files", "web", "/hello.txt", "--disk", "2")
    assert "vg-0/both (FAT)" in on_second.stderr
    assert "vg-0/home" not in on_second.stderr
    assert copied.admin("files", "web", "--disk", "vg-0/none").exit_code == ExitCode.USAGE


def test_without_a_disk_the_others_are_read_and_the_volume_is_named(
    site_with_database: Operator, disks: Path
) -> None:
    site_with_database.add_vms("web")
    put_copy(site_with_database.nas / "web", NEW, guest_disks.as_copy(disks / "disk1"))
    rows = {row["place"]: row for row in site_with_database.json("files", "web")["systems"]}
    assert rows["1.2"]["note"] == "volume group vg-0, 1 of 2 disks cannot be found"
    assert "lies on a disk that is not in the copy" in rows["vg-0/root"]["note"]
    assert "lies on a disk that is not in the copy" in rows["vg-0/both"]["note"]
    assert rows["vg-0/home"]["readable"]
    found = site_with_database.json("files", "web", "/many", "--disk", "vg-0/home")
    assert len(found["entries"]) == 150


def test_a_mount_has_each_volume_as_a_file(copied: Operator, disks: Path) -> None:
    with CopyView(copied.nas / "web" / f"{NEW}.ova") as view:
        for name in ("root", "home", "both"):
            image, shown = (disks / name).read_bytes(), f"vg--0-{name}.img"
            assert view.read(shown, 0, len(image) + 9) == image, name
            for at in (1, 65535, 131_073, 12 * MIB - 7, len(image) - 5):
                assert view.read(shown, at, 70_000) == image[at : at + 70_000], (name, at)
        assert not [name for name in view.files if "thin" in name or "cow" in name]


@pytest.mark.usefixtures("fuse")
def test_a_volume_of_a_mount_is_mounted_by_the_kernel(
    copied: Operator, disks: Path, tmp_path: Path
) -> None:
    place, inside = tmp_path / "place", tmp_path / "inside"
    place.mkdir()
    inside.mkdir()
    mount(copied, place)
    try:
        with guest_disks.mounted(place / "vg--0-root.img", inside, "ro,loop"):
            found = guest_disks.digests(inside)
    finally:
        assert copied.admin("umount", str(place), "--force").exit_code == 0
    assert found == guest_disks.digests(disks / "files")


def test_files_of_a_volume_are_compared(copied: Operator, disks: Path, tmp_path: Path) -> None:
    """It was moved to another place of the group meanwhile, and a file of it was changed."""
    files = tmp_path / "files"
    shutil.copytree(disks / "files", files)
    (files / "hello.txt").write_bytes(b"good bye\n")
    home = guest_disks.ext(tmp_path / "home", files, "ext2")
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 64 * MIB)
    with lvm_disks.lvm(tmp_path, image) as lvm:
        lvm("pvcreate", "-y", "@1")
        lvm("vgcreate", "vg-0", "@1")
        lvm.volume("vg-0", "before", 2, "@1")
        lvm.volume("vg-0", "home", 6, "@1")
        lvm.fill("vg-0/home", home.read_bytes())
    put_copy(copied.nas / "web", OLD, guest_disks.as_copy(image))
    result = copied.admin("compare", "web", OLD, NEW, "--files", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    systems = {row["place"]: row for row in document["systems"]}
    assert systems["vg-0/home"]["why"] == ""
    assert systems["vg-0/root"]["why"] == "it is new"
    assert not {"1.2", "2"} & set(systems)
    changed = {row["path"] for row in document["files"] if "content" in row["details"]}
    assert changed == {"/hello.txt"}
