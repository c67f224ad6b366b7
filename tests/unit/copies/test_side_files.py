import hashlib
import os

import pytest

from shared.copies import side_files
from shared.copies.copy_files import NasFiles
from shared.copies.names import parse_partial
from shared.host.errors import CopyError, LockLostError, NasError
from tests.support import copies as make

NAME = ".20261122T203800Z-17.17.partial.sav"


def test_what_is_kept_is_what_was_read_in_pieces(tmp_path):
    data = os.urandom(3 * 2**20 + 5)
    (tmp_path / "memory").write_bytes(data)
    found = side_files.keep(NasFiles(), tmp_path, NAME, side_files.pieces_of(tmp_path / "memory"))
    assert (found.size, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (tmp_path / NAME).read_bytes() == data
    assert parse_partial(NAME) is not None, "so that what a crash leaves is swept"
    assert side_files.keep(NasFiles(), tmp_path, NAME, [b"again"]).size == 5


def test_a_file_that_cannot_be_read_is_the_vms_fault_and_a_nas_that_refuses_is_the_nass(tmp_path):
    with pytest.raises(CopyError, match="cannot read"):
        side_files.keep(NasFiles(), tmp_path, NAME, side_files.pieces_of(tmp_path / "gone"))
    with pytest.raises(NasError):
        side_files.keep(NasFiles(), tmp_path / "gone", NAME, [b"x"])


def test_bytes_that_arrive_wrong_are_noticed(tmp_path):
    class Lying(NasFiles):
        def write(self, descriptor, data):
            super().write(descriptor, data[:-1] + b"!")

    with pytest.raises(CopyError, match="arrived wrong"):
        side_files.keep(Lying(), tmp_path, NAME, [b"memory"])


def test_a_displaced_worker_stops_within_a_piece(tmp_path):
    def lost():
        raise LockLostError("taken over")

    with pytest.raises(LockLostError):
        side_files.keep(NasFiles(), tmp_path, NAME, [b"x"], check=lost)


def test_names_of_members_from_the_headers(tmp_path):
    (tmp_path / "x.ova").write_bytes(make.ova())
    assert side_files.member_names(tmp_path, "x.ova") == ("x.ovf", "vm-disk001.vmdk", "x.mf")
    (tmp_path / "x.ova").write_bytes(make.ova()[:-700])
    with pytest.raises(CopyError):
        side_files.member_names(tmp_path, "x.ova")
