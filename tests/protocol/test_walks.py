"""Long schedules that no search could exhaust: more workers, more transactions, many faults, followed by chance. A seed repeats one."""

from random import Random

import pytest

from tests.protocol import claims
from tests.protocol.conftest import PROVE
from tests.protocol.nas import Cost, Rules
from tests.protocol.programs import (
    all_of,
    answers_are_true,
    appender,
    chain_grows,
    each_once,
    editor,
    expirer,
    pruner,
    start,
    view_is_current,
)
from tests.protocol.search import Scenario, Search

WALKS = 60 if PROVE else 5
SEEDS = range(10 if PROVE else 3)

MANY = Scenario(
    "five sessions, views and faults",
    tuple(appender(name, 5, view=True) for name in "ABCDE"),
    all_of(each_once, answers_are_true, view_is_current),
    start(),
    chain_grows,
    2,
    Cost(0, 6, 4),
)
PRUNED = Scenario(
    "four sessions, pruned all the time",
    (*(appender(name, 6) for name in "ABCD"), pruner(4, rounds=12)),
    each_once,
    start(),
    chain_grows,
    1,
    Cost(4, 6, 2),
    Rules(prunes=True),
)
EXPIRED = Scenario(
    "sessions that are expired in the middle",
    (appender("A", 6), appender("B", 6), expirer("C", "A", 6), expirer("D", "B", 3)),
    all_of(each_once, answers_are_true),
    start(),
    chain_grows,
    1,
    Cost(0, 5, 2),
)
EDITED = Scenario(
    "a view that is edited",
    (appender("A", 4, view=True), appender("B", 4, view=True), editor(), editor()),
    all_of(each_once, answers_are_true),
    start(),
    chain_grows,
    1,
    Cost(2, 3, 2),
)
CLAIMED = Scenario(
    "five workers for one VM",
    (
        claims.backup("A", ends=True),
        claims.takeover("B", "A"),
        claims.takeover("C", "B"),
        claims.takeover("D", "A", by_hand=True),
        claims.backup("E", ends=True),
    ),
    all_of(answers_are_true, claims.copies_are_announced, claims.next_tick_recovers),
    claims.new_database(),
    chain_grows,
    2,
    Cost(0, 4, 3),
)


@pytest.mark.timeout(3600 if PROVE else 300)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", [MANY, PRUNED, EXPIRED, EDITED, CLAIMED], ids=lambda scenario: scenario.name)
def test_holds(scenario: Scenario, seed: int) -> None:
    random = Random(seed)
    for walk in range(WALKS):
        result = Search(scenario).walk(random, mischief=random.choice([0.02, 0.1, 0.3]))
        assert result.violation is None, f"seed {seed}, walk {walk}: {result}"
        assert result.complete, f"seed {seed}, walk {walk} did not end: {result}"
