"""The protocol holds in every schedule that is searched.

Each scenario runs the code of production; see `tests.protocol.search`.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.state.store import protocol
from tests.protocol import bundles, claims, lease, nas, upgrades
from tests.protocol.nas import Cost, Rules
from tests.protocol.programs import (
    all_of,
    answers_are_true,
    appender,
    chain_grows,
    each_once,
    edited_views_are_kept,
    editor,
    expirer,
    head_is_whole,
    nobody_is_alarmed,
    pruner,
    publisher,
    start,
    view_is_current,
)
from tests.protocol.search import Scenario, search
from tests.support.proving import PROVE

PRUNES = Rules(prunes=True)
LOG = all_of(each_once, answers_are_true)
PRUNED = all_of(each_once, nobody_is_alarmed)
CLAIMS = all_of(answers_are_true, claims.copies_are_announced, claims.next_tick_recovers)

#: Small enough for each run of the tests.
BASIC = (
    Scenario(
        "two sessions, one crash, one fault",
        (appender("A"), appender("B", 2)),
        LOG,
        start(),
        chain_grows,
        1,
        Cost(fault=1),
    ),
    Scenario(
        "two sessions, one stale read, one fault",
        (appender("A"), appender("B", 2)),
        LOG,
        start(),
        chain_grows,
        0,
        Cost(1, 1),
    ),
    Scenario(
        "two sessions, one error, one fault",
        (appender("A", 2), appender("B")),
        LOG,
        start(),
        chain_grows,
        0,
        Cost(0, 1, 1),
    ),
    Scenario(
        "three sessions, one fault",
        tuple(map(appender, "ABC")),
        LOG,
        start(),
        chain_grows,
        0,
        Cost(fault=1),
    ),
    Scenario(
        "two sessions, one crash, the server's power is cut",
        (appender("A"), appender("B", 2)),
        all_of(head_is_whole, LOG, nobody_is_alarmed),
        start()._replace(power_cuts=1),
        chain_grows,
        1,
    ),
    Scenario(
        "pruning",
        (appender("A"), appender("B", 2), pruner()),
        PRUNED,
        start(),
        chain_grows,
        1,
        rules=PRUNES,
    ),
    Scenario(
        "pruning, one stale read",
        (appender("A"), appender("B", 2), pruner()),
        PRUNED,
        start(),
        chain_grows,
        0,
        Cost(stale=1),
        PRUNES,
    ),
    Scenario(
        "the view, one crash, one stale read, one fault",
        (appender("A", view=True), appender("B", view=True)),
        all_of(LOG, view_is_current),
        start(),
        chain_grows,
        1,
        Cost(1, 1),
    ),
    Scenario(
        "the view, one error",
        (appender("A", view=True), appender("B", view=True)),
        all_of(LOG, view_is_current),
        start(),
        chain_grows,
        budget=Cost(error=1),
    ),
    Scenario(
        "the view is edited",
        (publisher("A"), publisher("B"), editor()),
        edited_views_are_kept,
        start(),
        chain_grows,
        1,
    ),
    Scenario(
        "an upgrade beside an older program, one crash",
        (upgrades.upgrader("A"), upgrades.older("B", 2)),
        answers_are_true,
        upgrades.first_format(),
        upgrades.formats_grow,
        1,
        Cost(stale=1),
    ),
    Scenario(
        "claims, one crash",
        (claims.backup("A"), claims.takeover("B", "A")),
        CLAIMS,
        claims.new_database(),
        chain_grows,
        1,
    ),
    Scenario(
        "claims broken by hand, one crash",
        (claims.backup("A"), claims.takeover("B", "A", by_hand=True)),
        CLAIMS,
        claims.new_database(),
        chain_grows,
        1,
    ),
    Scenario(
        "claims, one stale read",
        (claims.backup("A"), claims.takeover("B", "A")),
        CLAIMS,
        claims.new_database(),
        chain_grows,
        budget=Cost(stale=1),
    ),
    Scenario(
        "claims, one fault",
        (claims.backup("A"), claims.takeover("B", "A")),
        CLAIMS,
        claims.new_database(),
        chain_grows,
        0,
        Cost(fault=1),
    ),
    Scenario(
        "claims, one error",
        (claims.backup("A"), claims.takeover("B", "A")),
        CLAIMS,
        claims.new_database(),
        chain_grows,
        budget=Cost(error=1),
        rules=Rules(passing=True),
    ),
    Scenario(
        "two workers for one VM, one crash",
        (claims.backup("A", ends=True), claims.backup("B", ends=True)),
        CLAIMS,
        claims.new_database(),
        chain_grows,
        1,
    ),
    Scenario(
        "breakers of the lease",
        (
            lease.breaker("A", b"dead"),
            lease.breaker("B", b"dead"),
            lease.holder("C", releases=False),
        ),
        lease.nobody_is_robbed(b"dead"),
        start()._replace(lease=b"dead"),
        crashes=1,
        budget=Cost(error=1),
    ),
    Scenario(
        "breakers of the lease, and a holder that releases it",
        (
            lease.breaker("A", b"dead"),
            lease.holder("B", releases=True),
            lease.holder("C", releases=False),
        ),
        lease.nobody_is_robbed(b"dead"),
        start()._replace(lease=b"dead"),
        crashes=1,
        budget=Cost(error=1),
    ),
)


#: Up to two minutes each.
LARGE = (
    Scenario(
        "two sessions, two stale reads",
        (appender("A"), appender("B", 2)),
        LOG,
        start(),
        chain_grows,
        1,
        Cost(2, 2),
    ),
    Scenario(
        "pruning, one fault",
        (appender("A"), appender("B", 2), pruner()),
        PRUNED,
        start(),
        chain_grows,
        0,
        Cost(fault=1),
        PRUNES,
    ),
    Scenario(
        "pruning, one stale read, one fault",
        (appender("A"), appender("B", 2), pruner()),
        PRUNED,
        start(),
        chain_grows,
        0,
        Cost(1, 1),
        PRUNES,
        limit=20_000_000,
    ),
)


def _enlarged(scenario: Scenario) -> Scenario:
    """The same scenario with one crash, and one fault and one error more where it has any.

    Not one stale read more: a second look at the head that is stale twice leaves the view to the
    next tick. Not one more of the errors that pass by themselves: too many states.
    """
    stale, fault, error = scenario.budget
    budget = Cost(stale, fault and fault + 1, error and error + (not scenario.rules.passing))
    return replace(
        scenario,
        name=f"{scenario.name}, enlarged",
        crashes=max(1, scenario.crashes),
        budget=budget,
        limit=20_000_000,
    )


BASIC += bundles.SCENARIOS
SCENARIOS = (*BASIC, *LARGE, *map(_enlarged, BASIC)) if PROVE else BASIC


@pytest.mark.timeout(3600 if PROVE else 900)  # the longest takes two minutes of the processor
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_holds(scenario: Scenario, record_property: Callable[[str, object], None]) -> None:
    result = search(scenario)
    record_property("runs", result.states)
    print(result)
    assert result.violation is None, str(result)
    assert result.complete, str(result)
    assert result.ends > 1


@pytest.mark.parametrize(("memory", "transactions", "faults"), [(0, 2, 1), (1, 3, 0)])
def test_what_a_session_is_told_stays_true_when_it_is_forgotten(
    memory: int, transactions: int, faults: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is expired in the middle, and whose row is forgotten, is told the truth, or
    that it is not known.
    """
    monkeypatch.setattr(protocol, "SESSION_MEMORY", memory)
    scenario = Scenario(
        f"memory of {memory}",
        (appender("A", 2), expirer("B", "A", transactions)),
        answers_are_true,
        start(),
        chain_grows,
        0,
        Cost(fault=faults),
    )
    result = search(scenario)
    print(result)
    assert result.violation is None, str(result)
    assert result.complete


def test_search_reaches_every_kind_of_answer() -> None:
    """The scenarios are not empty: sessions do lose races, are fenced, and are left in doubt."""
    seen: set[str] = set()

    def note(_: nas.World, results: object) -> None:
        seen.update(answer for result in results if result for _, answer in result)

    programs = (claims.backup("A"), claims.takeover("B", "A"))
    search(
        Scenario(
            "answers", programs, note, claims.new_database(), chain_grows, budget=Cost(error=1)
        )
    )
    assert {"done", "LockLostError", "LockedError", "NasError"} <= seen
