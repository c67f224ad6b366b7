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
