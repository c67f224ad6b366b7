"""A VM or a disk is not restored into what is kept on the NAS for the database and for copies."""

from pathlib import Path

import pytest

from coordinator.restore.kept_places import refuse_kept_place
from shared.host.configuration import Nas
from shared.host.errors import UsageError

STAMP = "20261122T203800Z-17"


@pytest.fixture
def nas(tmp_path: Path) -> Nas:
    top = tmp_path / "nas"
    for name in ("vmstate/gen", "archive/old", "web01", "vms"):
        (top / name).mkdir(parents=True)
    (top / "web01" / f"{STAMP}.ova").touch()
    (tmp_path / "link").symlink_to(top / "vmstate")
    return Nas.model_validate({"mountpoint": str(top)})


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nas/vmstate", "the state database"),
        ("nas/vmstate/gen", "the state database"),
        ("link/new", "the state database"),
        ("nas/archive", "the archive"),
        ("nas/archive/old", "the archive"),
        ("nas/web01", "the directory of a VM"),
        ("nas/web01/new", "the directory of a VM"),
    ],
)
def test_what_is_kept_is_refused(nas: Nas, place: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"lies in {said}"):
        refuse_kept_place(nas, nas.mountpoint.parent / place)


@pytest.mark.parametrize("place", ["nas", "nas/vms", "nas/vms/new", "nas/new", "elsewhere"])
def test_all_else_will_do(nas: Nas, place: str) -> None:
    refuse_kept_place(nas, nas.mountpoint.parent / place)


@pytest.mark.parametrize("spelled", ["linked", "nas"])
@pytest.mark.parametrize("place", ["vmstate/gen", "archive/new", "archive", "web01/new"])
def test_a_mount_point_that_is_a_link_is_the_same_place(nas: Nas, spelled: str, place: str) -> None:
    """However the place is spelled, and the archive: by the link, or by where that leads."""
    top = nas.mountpoint.parent
    (top / "linked").symlink_to(nas.mountpoint)
    for archive in ("archive", str(top / "linked" / "archive")):
        document = {"mountpoint": str(top / "linked"), "archive_directory": archive}
        with pytest.raises(UsageError, match="where nothing else belongs"):
            refuse_kept_place(Nas.model_validate(document), top / spelled / place)
        refuse_kept_place(Nas.model_validate(document), top / spelled)
        refuse_kept_place(Nas.model_validate(document), top / spelled / "vms")


def test_an_archive_elsewhere_is_known_by_its_own_name(nas: Nas, tmp_path: Path) -> None:
    (tmp_path / "second" / "archive").mkdir(parents=True)
    (tmp_path / "by").symlink_to(tmp_path / "second")
    archive = tmp_path / "by" / "archive"
    document = {"mountpoint": str(nas.mountpoint), "archive_directory": str(archive)}
    with pytest.raises(UsageError, match="lies in the archive"):
        refuse_kept_place(Nas.model_validate(document), archive / "new")
