"""Whether images can be cloned while their VM stands still, on real file systems."""

import os
from pathlib import Path

import pytest

from shared.frozen import pausing
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.store import RoomLimit
from tests.support.file_systems import mounted

pytestmark = pytest.mark.slow


def test_images_on_a_file_system_with_reflinks_can_be_cloned_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    with mounted("xfs", tmp_path) as place:
        image = place / "disk.vdi"
        image.write_bytes(os.urandom(1 << 20))
        pausing.require_clonable([image], place, RoomLimit(10))
        with pytest.raises(NotFrozenError, match="less than 100 %"):
            pausing.require_clonable([image], place, RoomLimit(100))
        assert os.listdir(place) == ["disk.vdi"]
        pausing.flush([image])
        pausing.require_quick([image], 5)
        with pytest.raises(NotFrozenError, match="fragmented"):
            pausing.require_quick([image], 1e-6)
        assert pausing.folder_of_clone(image, place, "x") == place / "x"
        assert pausing.folder_of_clone(image, tmp_path, "x") == place / "x"


def test_others_cannot(tmp_path: Path) -> None:
    with mounted("ext4", tmp_path) as place:
        image = place / "disk.vdi"
        image.write_bytes(os.urandom(1 << 20))
        with pytest.raises(NotFrozenError, match="no reflink clones"):
            pausing.require_clonable([image], place, RoomLimit(10))
        for ask in (
            lambda: pausing.require_clonable([place / "gone"], place, RoomLimit(10)),
            lambda: pausing.require_quick([place / "gone"], 5),
            lambda: pausing.flush([place / "gone"]),
        ):
            with pytest.raises(NotFrozenError, match="No such file"):
                ask()
