import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.copies import space_needed
from shared.host.errors import NasError
from tests.support import copies as make

GIB = 1 << 30


def last(size, source):
    return make.sidecar(b"", size=size, source_bytes=source)


def test_only_what_the_disks_really_take_counts(tmp_path):
    sparse = tmp_path / "sparse.vdi"
    with sparse.open("wb") as file:
        file.write(b"x" * 8192)
        file.truncate(GIB)
    assert 8192 <= space_needed.allocated([sparse, sparse]) < 1 << 20
    assert space_needed.allocated([tmp_path / "gone.vdi"]) == 0


def test_without_a_last_copy_the_disks_are_the_bound():
    assert 10 * GIB < space_needed.needed(10 * GIB, None) < 10.5 * GIB
    assert space_needed.needed(10 * GIB, last(GIB, 0)) == space_needed.needed(10 * GIB, None)


def test_the_last_copy_tells_how_well_the_data_packs():
    assert 5 * GIB < space_needed.needed(10 * GIB, last(4 * GIB, 10 * GIB)) < 5.2 * GIB
    assert 10 * GIB < space_needed.needed(20 * GIB, last(4 * GIB, 10 * GIB)) < 10.2 * GIB


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_never_more_than_the_bound_and_never_nothing(source, size, before):
    assert 0 < space_needed.needed(source, last(size, before)) <= space_needed.needed(source, None)


def test_refusal_has_the_figures_and_what_to_free():
    space_needed.check_room(12 * GIB, 10 * GIB, 2 * GIB)
    with pytest.raises(
        NasError, match=r"needs about 10.0 GiB, 11.0 GiB are free, 2.0 GiB must stay free"
    ) as caught:
        space_needed.check_room(11 * GIB, 10 * GIB, 2 * GIB)
    assert caught.value.hint.startswith("free 1.0 GiB on the NAS")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB"), (5000 << 40, "5000.0 TiB")],
)
def test_sizes_for_people(size, text):
    assert space_needed.human(size) == text
