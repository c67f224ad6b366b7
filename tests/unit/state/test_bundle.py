"""Bundles as files: what goes in comes out, and whatever is wrong with one is noticed."""

import gzip
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.state.store.bundle import BundleName, bundle_names, unpack
from shared.state.store.bundle_packing import Packer
from tests.unit.state.builders import WHEN

ANY = st.lists(st.binary(max_size=40) | st.sampled_from([b"a\nb\n", b"a\nc\n", b""]), min_size=1)


def packed(*generations: bytes, before: bytes | None = None) -> tuple[BundleName, bytes]:
    """A bundle of generations from number 5 on."""
    packer = Packer((4, before) if before is not None else None)
    for number, data in enumerate(generations, 5):
        packer.add(number, data)
    return packer.finish(WHEN, "01234567")


@pytest.mark.broad
@given(ANY, st.none() | st.binary(max_size=40))
def test_every_byte_comes_back(generations: list[bytes], before: bytes | None) -> None:
    name, data = packed(*generations, before=before)
    bundle = unpack(name, data)
    assert list(bundle.generations()) == list(enumerate(generations, 5))
    assert bundle.generation(5) == generations[0]
    assert bundle.generation(4) is None
    assert bundle.follows(5) == (before is not None)
    assert bundle_names([str(name), "0000000", "anchor-1"]) == [name]


def test_what_nobody_can_have_counted_to_is_no_bundle() -> None:
    name, _ = packed(b"one\n")
    assert bundle_names([str(replace(name, last=10**18)), str(replace(name, first=6))]) == []


def test_the_name_says_what_is_in_it() -> None:
    name, _ = packed(b"one\n", b"two\n")
    assert (name.first, name.last, name.committed) == (5, 6, "20261122T203800Z")
    assert packed(b"one\n", b"two\n")[0] == name
    assert packed(b"one\n", b"tow\n")[0] != name


def test_a_line_is_found_where_it_came_or_went() -> None:
    name, data = packed(b"x\nk1 a\n", b"x\nk1 b\n", b"x\n", b"y\n", before=b"x\nk1 a\n")
    assert unpack(name, data).naming([b"k1 "]) == {6, 7}


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_each_flipped_bit_is_noticed(place: int) -> None:
    name, data = packed(*(f"row {number}\n".encode() * 3 for number in range(20)))
    torn = bytearray(data)
    torn[10 + place % (len(data) - 10)] ^= 4  # the first ten bytes are of gzip, and say nothing
    with pytest.raises(ValueError, match="it "):
        unpack(name, bytes(torn))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"vmbackup-history 2\n{}\n",
        b"vmbackup-history 1\n[]\n",
        b'vmbackup-history 1\n{"numbers":[],"lengths":[]}\n',
        b'vmbackup-history 1\n{"numbers":[5,6],"lengths":[-3,3]}\n',
        b'vmbackup-history 1\n{"numbers":[6,5],"lengths":[0,0]}\n',
        b'vmbackup-history 1\n{"numbers":[5,6],"lengths":[0,9]}\n',
        b'vmbackup-history 1\n{"numbers":[5,6],"lengths":[0,0],"before":5}\n',
        b'vmbackup-history 1\n{"numbers":[5,6],"lengths":[1,1],"before":4,"before_bytes":-2}\n',
    ],
)
def test_nonsense_with_a_right_checksum_is_refused(body: bytes) -> None:
    digest = hashlib.sha256(body).hexdigest()
    name = BundleName(5, 6, "unknown", digest[:32], "01234567")
    with pytest.raises(ValueError, match=r"it|field"):
        unpack(name, gzip.compress(body + f"\nsha256 {digest}\n".encode()))


@pytest.mark.parametrize(
    "record",
    [
        b"0,0,1\n",  # fewer lines than it says
        b"0,0,0\none\n",  # more
        b"0,0\n",
        b"0,0,x\n",
        b"-1,0,0\n",  # what goes back can make the lines twice as many each time
        b"9,0,0\n",  # of a generation that has fewer lines
    ],
)
def test_a_difference_of_nothing_is_refused(record: bytes) -> None:
    table = b'{"numbers":[5],"lengths":[%d]}' % len(record)
    body = b"\n".join([b"vmbackup-history 1", table, record])
    digest = hashlib.sha256(body).hexdigest()
    name = BundleName(5, 5, "unknown", digest[:32], "01234567")
    with pytest.raises(ValueError, match="difference"):
        unpack(name, gzip.compress(body + f"\nsha256 {digest}\n".encode()))
