"""What differs between two generations, as lines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.state.store.difference import Difference, between, extent, parse, render, rows
from tests.unit.state.builders import session, vm

LINES = st.lists(st.sampled_from([b"a", b"b", b"c", b"", b"{"]), max_size=8)


def applied(difference: Difference, old: list[bytes]) -> list[bytes]:
    """An oracle of its own: what the hunks make of the old lines."""
    here, gone, came = list(old), list(difference.gone), list(difference.came)
    made = []
    for hunk in difference.hunks:
        made += here[: hunk.stay]
        assert here[hunk.stay : hunk.stay + hunk.go] == gone[: hunk.go]
        made += came[: hunk.come]
        del here[: hunk.stay + hunk.go], gone[: hunk.go], came[: hunk.come]
    assert not gone
    assert not came
    assert not here
    return made


@given(LINES, LINES)
def test_the_one_becomes_the_other_whatever_they_are(old: list[bytes], new: list[bytes]) -> None:
    assert applied(between(old, new), old) == new


@given(LINES, LINES)
def test_its_extent_is_told_without_reading_it_in_full(old: list[bytes], new: list[bytes]) -> None:
    found = between(old, new)
    assert extent(render(found)) == (len(old), len(new))
    assert parse(render(found)) == found


@pytest.mark.parametrize(
    "record",
    [
        b"1,2\n",
        b"1,2,3,4\na\n",
        b"1,x,0\n",
        b"1,-1,1\na\n",
        b"1,,0\n",
        b"1,2,0\na\n",
        b"1,0,0\na\n",
        b"1,0,1",
        b"0,0,0\t0,0,0\n",
        b"9999999999999,0,0\n",
        "\u0661,0,0\n".encode(),
    ],
)
def test_what_is_no_difference_is_refused_by_both(record: bytes) -> None:
    for read in (extent, parse):
        with pytest.raises(ValueError, match="what is no difference"):
            read(record)


def test_sorted_lines_differ_in_what_changed_only() -> None:
    old, new = ([b"row %03d %d" % (n, n in changed) for n in range(200)] for changed in ((), (7,)))
    found = between(old, new)
    assert (found.gone, found.came) == ((b"row 007 0",), (b"row 007 1",))


def test_records_are_read_from_lines() -> None:
    lines = [b"vms 1", b"{", b'{"key":1}', b'{"id":"a"}', b"[]"]
    found = rows(lines)
    assert not found.vms
    assert not found.sessions
    assert not found.nodes
    found = rows(json.dumps(each.to_json()).encode() for each in (vm("web"), session("alpha.1")))
    assert (list(found.vms), list(found.sessions)) == (["web"], ["alpha.1"])
