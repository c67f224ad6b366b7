"""Single schedules of the protocol that are worth a name.

All others are searched in `tests/protocol`.
"""

from typing import Any

import pytest

from shared.host.errors import (
    DatabaseDamagedError,
    InDoubtError,
    LockLostError,
    NasError,
    NoGenerationError,
)
from shared.state.contents import Contents
from shared.state.store import header, protocol
from shared.state.store.header import Header
from shared.state.store.operations import (
    ListGenerations,
    PublishGeneration,
    ReadGeneration,
    Steps,
    SyncGeneration,
    Wait,
)
from shared.state.store.protocol import Author
from shared.state.store.snapshot import encode
from tests.unit.state.builders import REPOSITORY, WHEN, contents, session, vm

#: Operations whose answers the tests give.
_ASKS = (ListGenerations, ReadGeneration, SyncGeneration)


def run(steps: Steps[Any], answers: list[Any]) -> Any:
    """Runs a piece of the protocol: a list answers a listing, anything else a read.

    Each wait takes a second; nothing else needs an answer.
    """
    remaining = iter(answers)
    operation = next(steps)
    try:
        while True:
            otherwise = 1.0 if isinstance(operation, Wait) else None
            operation = steps.send(next(remaining) if isinstance(operation, _ASKS) else otherwise)
    except StopIteration as stop:
        assert list(remaining) == [], "all answers were asked for"
        return stop.value


def generation(
    number: int, previous: str, database: Contents, by: str = "alpha.1", sequence: int = 1
) -> tuple[bytes, str]:
    """The bytes of a generation, and its checksum."""
    data = encode(
        Header(REPOSITORY, number, previous, by, sequence, "alpha", WHEN, "test"), database
    )
    return data, protocol.decode(data, number).checksum


FIRST, FIRST_SUM = generation(1, header.NO_PREVIOUS, contents())
SECOND, SECOND_SUM = generation(2, FIRST_SUM, contents(vm("web01")))
THIRD, THIRD_SUM = generation(3, SECOND_SUM, contents(vm("web01"), vm("web02")))
STRAY, _ = generation(2, FIRST_SUM, contents(vm("late")))
FORGED, _ = generation(3, "f" * 64, contents())


class TestHead:
    def test_a_stale_listing_is_followed_to_the_end(self) -> None:
        assert run(protocol.read_head(), [[1], FIRST, SECOND, THIRD, None]).checksum == THIRD_SUM

    def test_an_empty_listing_is_never_believed(self) -> None:
        assert run(protocol.read_head(), [[], [], [1], FIRST, None]).generation == 1

    def test_a_head_that_was_pruned_meanwhile_is_looked_for_again(self) -> None:
        assert run(protocol.read_head(), [[2], None, [3], THIRD, None]).generation == 3

    def test_a_stray_below_the_window_is_no_damage(self) -> None:
        """Listed long ago; since then pruned, and its name filled by a writer that had been paused
        even longer.
        """
        assert (
            run(protocol.read_head(), [[2], STRAY, THIRD, [3], THIRD, None]).checksum == THIRD_SUM
        )

    def test_a_chain_that_stays_broken_is_damage(self) -> None:
        with pytest.raises(
            DatabaseDamagedError,
            match="generation 3 of the state database does not follow from generation 2",
        ):
            run(protocol.read_head(), [[2], SECOND, FORGED, [2], SECOND, FORGED])

    def test_another_database_in_the_same_place_is_damage(self) -> None:
        other = encode(Header("another", 3, SECOND_SUM, "s", 1, "n", WHEN, "x"), contents())
        with pytest.raises(DatabaseDamagedError):
            run(protocol.read_head(), [[2], SECOND, other] * 2)

    def test_a_nas_without_generations_is_given_up_in_bounded_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "ATTEMPTS", 5)
        with pytest.raises(NasError):
            run(protocol.read_head(), [[1], None] * 5)

    def test_no_name_at_all_is_given_up_after_seconds_with_the_command_that_helps(self) -> None:
        """However often it was asked in that time: waits are short when the dice fall so."""
        with pytest.raises(NasError, match="has no generation: gen/ is empty") as caught:
            run(protocol.read_head(), [[]] * (int(protocol.EMPTY_SECONDS) + 1))
        assert "vmbackup-admin statedb rebuild" in caught.value.hint

    def test_names_that_come_back_late_are_waited_for(self) -> None:
        listings = [[]] * int(protocol.EMPTY_SECONDS)
        assert run(protocol.read_head(), [*listings, [1], FIRST, None]).generation == 1

    def test_what_was_seen_before_is_asked_for_where_the_listing_is_empty(self) -> None:
        assert run(protocol.read_head(2), [[], SECOND, THIRD, None]).generation == 3

    def test_what_was_seen_before_may_be_gone(self) -> None:
        answers = [[], None] * (int(protocol.EMPTY_SECONDS) + 1)
        with pytest.raises(NoGenerationError, match="gen/ is empty"):
            run(protocol.read_head(2), answers)

    def test_a_transaction_asks_for_what_it_read_itself(self) -> None:
        """Lost to another after the listing, which is empty the next time."""
        answers = [[1], FIRST, None, FIRST, [], FIRST, SECOND, None, SECOND]
        author = Author(session("alpha.1"), 2, WHEN, "test")
        head = run(protocol.transact(author, lambda _: contents(vm("web01"))), answers)
        assert head.generation == 2


class TestDoubt:
    """A session that cannot know whether its commit took place says so, and never says more."""

    AUTHOR = Author(session("alpha.1"), 2, WHEN, "test", known=True)

    def far_ahead(self, distance: int) -> bytes:
        return generation(2 + distance, "0" * 64, contents(vm("web01")))[0]

    def transact(self, distance: int) -> None:
        live, _ = generation(1, header.NO_PREVIOUS, contents(sessions=(session("alpha.1"),)))
        answers = [[1], live, None, live, [2 + distance], self.far_ahead(distance), None]
        run(protocol.transact(self.AUTHOR, lambda found: found.with_vm(vm("x"))), answers)

    def test_after_a_long_pause_it_is_in_doubt(self) -> None:
        with pytest.raises(InDoubtError):
            self.transact(protocol.SESSION_MEMORY + 1)

    def test_as_long_as_its_row_would_be_remembered_it_knows(self) -> None:
        with pytest.raises(LockLostError):
            self.transact(protocol.SESSION_MEMORY)

    def test_a_live_session_is_never_in_doubt_for_being_slow(self) -> None:
        row = session("alpha.1", sequence=1)
        start, _ = generation(1, header.NO_PREVIOUS, contents(sessions=(row,)))
        far, checksum = generation(500, "0" * 64, contents(vm("web01"), sessions=(row,)))
        mine, _ = generation(
            501,
            checksum,
            contents(vm("web01"), vm("x"), sessions=(session("alpha.1", sequence=2),)),
        )
        steps = protocol.transact(self.AUTHOR, lambda found: found.with_vm(vm("x")))
        head = run(steps, [[1], start, None, start, [500], far, None, far, [501], mine, None, mine])
        assert head.generation == 501


class TestPowerCut:
    """The NAS forgot a generation that could be read already, but was not on its disk."""

    AUTHOR = Author(session("alpha.1"), 1, WHEN, "test")
    MINE = generation(2, FIRST_SUM, contents(vm("x"), sessions=(session("alpha.1", sequence=1),)))[
        0
    ]

    def test_a_commit_that_was_forgotten_is_made_again(self) -> None:
        steps = protocol.transact(self.AUTHOR, lambda found: found.with_vm(vm("x")))
        first = [[1], FIRST, None, FIRST]
        forgotten = [[2], self.MINE, None, None]
        assert (
            run(steps, [*first, *forgotten, *first, [2], self.MINE, None, self.MINE]).generation
            == 2
        )

    @pytest.mark.parametrize("found", [None, STRAY])
    def test_nothing_is_built_on_what_was_forgotten_or_replaced(self, found: bytes | None) -> None:
        """What a change that changes nothing relies on has to last, too."""
        steps = protocol.transact(self.AUTHOR, lambda found: found)
        assert run(steps, [[2], SECOND, None, found, [1], FIRST, None, FIRST]).generation == 1


def test_a_first_attempt_does_not_wait_and_a_lost_race_does() -> None:
    steps = protocol.transact(
        Author(session("alpha.1"), 1, WHEN, "test"), lambda found: found.with_vm(vm("x"))
    )
    answers = iter([(1,), FIRST, None, FIRST] * 3)
    kinds, operation = [], next(steps)
    while len(kinds) < 21:
        kinds.append(type(operation))
        operation = steps.send(next(answers) if isinstance(operation, _ASKS) else None)
    waits = [index for index, kind in enumerate(kinds) if kind is Wait]
    published = [index for index, kind in enumerate(kinds) if kind is PublishGeneration]
    assert len(published) >= 2
    assert published[0] < published[1] < waits[0]
