"""The table of states, over all pairs."""

import itertools
import re
from pathlib import Path

import pytest

from shared.host.errors import IllegalMoveError
from shared.state.states import (
    FORGETTABLE,
    IN_FLIGHT,
    INITIAL,
    MOVES,
    Event,
    State,
    allowed,
    diagram,
    move,
)

S, E = State, Event

#: Written down a second time, by hand, from what the states mean: the table in the code is compared
#: with it.
EXPECTED = {
    E.SEEN_RUNNING: {S.NEW: S.RUNNING, S.CLEAN: S.RUNNING, S.BACKUP_NECESSARY: S.RUNNING},
    E.SEEN_STOPPED: {S.NEW: S.BACKUP_NECESSARY, S.RUNNING: S.BACKUP_NECESSARY},
    E.DUE: {S.RUNNING: S.BACKUP_NECESSARY},
    E.WANTED: dict.fromkeys((S.NEW, S.CLEAN, S.RUNNING), S.BACKUP_NECESSARY),
    E.CHANGED: {S.CLEAN: S.BACKUP_NECESSARY},
    E.COPY_DAMAGED: {S.CLEAN: S.BACKUP_NECESSARY},
    E.CLAIMED: {S.BACKUP_NECESSARY: S.BACKUP_IN_PROGRESS},
    E.PUBLISHED: {S.BACKUP_IN_PROGRESS: S.CLEAN},
    E.PUBLISHED_RUNNING: {S.BACKUP_IN_PROGRESS: S.RUNNING},
    E.PUBLISHED_CHANGED: {S.BACKUP_IN_PROGRESS: S.BACKUP_NECESSARY},
    E.FAILED: {S.BACKUP_IN_PROGRESS: S.BACKUP_NECESSARY},
    E.POSTPONED: {S.BACKUP_IN_PROGRESS: S.BACKUP_NECESSARY},
    E.FOUND_RUNNING: {S.BACKUP_IN_PROGRESS: S.RUNNING},
    E.ARCHIVE: dict.fromkeys((S.NEW, S.BACKUP_NECESSARY, S.CLEAN, S.RUNNING), S.ARCHIVED),
    E.ACTIVATE_UNCHANGED: {S.ARCHIVED: S.CLEAN},
    E.ACTIVATE_CHANGED: {S.ARCHIVED: S.BACKUP_NECESSARY},
    E.ACTIVATE_EMPTY: {S.ARCHIVED: S.NEW},
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair(state: State, event: Event) -> None:
    target = EXPECTED[event].get(state)
    assert allowed(state, event) == (target is not None)
    if target is not None:
        assert move(state, event) is target
        return
    with pytest.raises(IllegalMoveError) as caught:
        move(state, event)
    assert state in caught.value.message
    assert all(goal in caught.value.message for goal in set(EXPECTED[event].values()))


def test_every_state_can_be_reached_and_left() -> None:
    reached, found = set(), {INITIAL}
    while found - reached:
        reached |= found
        found = reached | {target for (source, _), target in MOVES.items() if source in reached}
    assert reached == set(State)
    assert {source for source, _ in MOVES} == set(State)


def test_every_state_can_become_clean_again() -> None:
    good = {State.CLEAN}
    while more := {source for (source, _), target in MOVES.items() if target in good} - good:
        good |= more
    assert good == set(State)


def test_a_state_in_flight_has_an_answer_to_a_crash_and_no_other_way_out_for_an_operator() -> None:
    for state in IN_FLIGHT:
        assert allowed(state, Event.FAILED)
        assert not allowed(state, Event.ARCHIVE)
        assert state not in FORGETTABLE
    assert set(State) == FORGETTABLE | IN_FLIGHT


def test_a_copy_is_published_only_from_a_claim() -> None:
    into = {target: source for (source, event), target in MOVES.items() if event is Event.PUBLISHED}
    assert into == {State.CLEAN: State.BACKUP_IN_PROGRESS}
    assert [
        source for (source, _), target in MOVES.items() if target is State.BACKUP_IN_PROGRESS
    ] == [State.BACKUP_NECESSARY]


def test_the_diagram_shows_every_move_once_and_is_the_one_in_the_documentation() -> None:
    lines = re.findall(r"^    (\w+) --> (\w+): (.+)$", diagram(), re.MULTILINE)
    assert sorted(lines) == sorted(
        (source, target, event) for (source, event), target in MOVES.items()
    )
    page = (Path(__file__).resolve().parents[3] / "docs" / "states.md").read_text(encoding="utf-8")
    assert f"```mermaid\n{diagram()}```\n" in page, "run `python -m deploy.documents`"
