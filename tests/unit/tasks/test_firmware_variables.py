"""The firmware variables of a copy come back wherever it has them."""

from pathlib import Path

import pytest

from shared.host.errors import CopyError
from shared.ova.disk_reader import open_copy
from shared.tasks.firmware_variables import firmware_variables
from shared.virtualbox.importing import ImportPlan
from tests.support.copies import manifest, tar_file

OVF, NVRAM = ("web.ovf", b"<Envelope/>"), ("web.nvram", b"boot order" * 999)


def found(folder: Path, *members: tuple[str, bytes], beside: bytes | None = None) -> bytes | None:
    ova, nvram = folder / "copy.ova", folder / "copy.nvram"
    ova.write_bytes(tar_file(members))
    if beside is not None:
        nvram.write_bytes(beside)
    what = ImportPlan(ova, "web", folder, nvram=None if beside is None else nvram)
    with open_copy(ova) as copy:
        return firmware_variables(what, copy)


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA1"])
def test_those_in_it_are_compared_with_its_manifest(tmp_path: Path, algorithm: str) -> None:
    listed = ("web.mf", manifest([OVF, NVRAM], algorithm))
    assert found(tmp_path, OVF, NVRAM, listed) == NVRAM[1]
    with pytest.raises(CopyError, match=r"the digest of 'web\.nvram' is wrong"):
        found(tmp_path, OVF, (NVRAM[0], NVRAM[1][:-1] + b"?"), listed)


def test_those_that_the_manifest_leaves_out_come_back_too(tmp_path: Path) -> None:
    assert found(tmp_path, OVF, NVRAM, ("web.mf", manifest([OVF]))) == NVRAM[1]
    assert found(tmp_path, OVF, NVRAM) == NVRAM[1]


def test_those_beside_it(tmp_path: Path) -> None:
    assert found(tmp_path, OVF, beside=b"keys") == b"keys"


def test_none(tmp_path: Path) -> None:
    assert found(tmp_path, OVF) is None
