"""`vmtool-statedb`: two fields a line, whatever a VM is called."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.host.errors import DatabaseDamagedError
from shared.state.states import State
from shared.state.store.readable_view import escape, parse, render, unescape
from tests.unit.state.builders import contents, vm

names = some.text(some.characters(codec=None), min_size=1)


@given(names)
def test_a_name_survives(name: str) -> None:
    assert unescape(escape(name)) == name


@given(names)
def test_a_name_stays_on_its_line_and_in_its_field(name: str) -> None:
    line = f"{escape(name)}:CLEAN"
    assert line.splitlines() == [line]
    assert line.count(":") == 1
    line.encode()


@given(some.dictionaries(names.filter(str.strip), some.sampled_from(State), max_size=5))
def test_what_is_rendered_is_parsed(states: dict[str, State]) -> None:
    assert parse(render(contents(*(vm(name, status) for name, status in states.items())))) == states


def test_it_is_the_format_of_version_one() -> None:
    assert (
        render(contents(vm("web 01", State.RUNNING), vm("a:b%\n", State.NEW)))
        == b"a%3Ab%25%0A:NEW\nweb 01:RUNNING\n"
    )


def test_names_that_are_escaped_differ_from_names_that_look_escaped() -> None:
    assert len({escape(name) for name in ("a:b", "a%3Ab", "a%253Ab")}) == 3


def test_every_line_that_is_wrong_is_named() -> None:
    with pytest.raises(DatabaseDamagedError) as caught:
        parse(b"web01:CLEAN\nnonsense\nweb02:SLEEPING\n:NEW\n\nweb01:NEW\nweb03: CLEAN \n")
    assert [line.split(":")[0].strip() for line in caught.value.message.splitlines()[1:]] == [
        "line 2",
        "line 3",
        "line 4",
        "line 6",
    ]


@given(some.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(DatabaseDamagedError):
        assert all(isinstance(state, State) for state in parse(data).values())


@pytest.mark.parametrize("name", ["\u202egnp", "a\u200bb", "\ufeffa", "a\u2066b"])
def test_what_turns_text_round_or_is_invisible_is_not_shown_raw(name: str) -> None:
    assert escape(name).isprintable()
    assert unescape(escape(name)) == name
