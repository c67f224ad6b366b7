"""Breadth-first search over everything that may happen.

All interleavings, crashes, stale reads, lost and late requests.

There is no lease in the model: whatever a lease may do wrongly (expire under a paused holder, be
granted twice) only leads to interleavings that are searched anyway.
"""

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.protocol import nas
from tests.protocol.nas import Cache, Cost, Rules, World
from tests.protocol.process import CRASHED, Done, Process, Program

#: What is wrong with a world, or None. Called for each change of the chain, and for each end.
StepCheck = Callable[[World, World], str | None]
EndCheck = Callable[[World, Sequence[Any]], str | None]


@dataclass(frozen=True)
class Scenario:
    """What is searched, and what must hold."""

    name: str
    programs: Sequence[Program]
    at_end: EndCheck
    start: World
    at_step: StepCheck | None = None
    crashes: int = 0
    budget: Cost = field(default_factory=Cost)
    rules: Rules = field(default_factory=Rules)
    limit: int = 3_000_000


@dataclass(frozen=True)
class Result:
    """What a search found. `trace` leads to the violation."""

    scenario: str
    states: int
    ends: int
    seconds: float
    violation: str | None = None
    trace: tuple[str, ...] = ()
    complete: bool = True

    def __str__(self) -> str:
        text = (
            f"{self.scenario}: {self.violation or 'holds'} ({self.states} states, "
            f"{self.ends} ends, {self.seconds:.1f} s)"
        )
        return "\n    ".join([text, *self.trace])


class _State(NamedTuple):
    world: int
    nodes: tuple[int, ...]
    caches: tuple[Cache, ...]
    crashes: int
    budget: Cost


class Search:
    """One search of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._processes = [Process(program) for program in scenario.programs]
        self._worlds: list[World] = []
        self._numbers: dict[World, int] = {}
        self._outcomes: dict[tuple[int, int, Any, Cache], list[tuple[nas.Outcome, int]]] = {}
        self._parents: dict[_State, tuple[_State, str] | None] = {}
        self._ends = 0

    def run(self) -> Result:
        """Searches until a violation is found or nothing is left."""
        began = time.monotonic()
        scenario = self._scenario
        first = self._first()
        self._parents[first] = None
        queue = collections.deque([first])
        violation, last = None, first
        while queue and violation is None and len(self._parents) < scenario.limit:
            last = queue.popleft()
            violation = self._check_end(last)
            for label, state in self._successors(last) if violation is None else ():
                if state not in self._parents:
                    self._parents[state] = (last, label)
                    queue.append(state)
                    violation = self._check_step(last, state)
                    if violation is not None:
                        last = state
                        break
        complete = violation is not None or not queue
        seconds = time.monotonic() - began
        trace = self._trace(last) if violation else ()
        return Result(
            scenario.name, len(self._parents), self._ends, seconds, violation, trace, complete
        )

    def _first(self) -> _State:
        scenario = self._scenario
        cache: Cache = (
            frozenset(number for number, _ in scenario.start.generations)
            if scenario.budget.stale
            else None
        )
        count = len(self._processes)
        return _State(
            self._number(scenario.start),
            (0,) * count,
            (cache,) * count,
            scenario.crashes,
            scenario.budget,
        )

    def _number(self, world: World) -> int:
        number = self._numbers.setdefault(world, len(self._worlds))
        if number == len(self._worlds):
            self._worlds.append(world)
        return number

    def _operation(self, process: int, node: int) -> Any:
        return Done(None) if node == CRASHED else self._processes[process].operations[node]

    def _successors(self, state: _State) -> Iterator[tuple[str, _State]]:
        world = self._worlds[state.world]
        for process, node in enumerate(state.nodes):
            operation = self._operation(process, node)
            if not isinstance(operation, Done) and nas.is_local(
                world, process, operation, self._scenario.rules
            ):
                yield from self._steps(state, process, node, operation)
                return
        for request in world.pending:
            after = nas.execute(world, request, self._scenario.rules)
            yield "the server executes a delayed request", state._replace(world=self._number(after))
        for after in nas.power_cut(world, self._scenario.rules) if world.power_cuts else ():
            yield "the server loses its power", state._replace(world=self._number(after))
        for process, node in enumerate(state.nodes):
            operation = self._operation(process, node)
            if isinstance(operation, Done):
                continue
            yield from self._steps(state, process, node, operation)
            if state.crashes:
                crashed = _put(state.nodes, process, CRASHED)
                after = self._number(nas.crash(world, process))
                caches = _put(state.caches, process, None)
                yield (
                    "",
                    state._replace(
                        world=after, nodes=crashed, caches=caches, crashes=state.crashes - 1
                    ),
                )

    def _steps(
        self, state: _State, process: int, node: int, operation: Any
    ) -> Iterator[tuple[str, _State]]:
        for outcome, world in self._possible(
            state.world, process, operation, state.caches[process]
        ):
            budget = Cost(
                *(have - need for have, need in zip(state.budget, outcome.cost, strict=True))
            )
            if min(budget) < 0:
                continue
            after = self._processes[process].step(node, outcome.answer)
            caches = (
                _put(state.caches, process, outcome.cache)
                if budget.stale
                else (None,) * len(state.caches)
            )
            yield (
                outcome.note,
                self._advanced(
                    _State(world, _put(state.nodes, process, after), caches, state.crashes, budget),
                    process,
                ),
            )

    def _advanced(self, state: _State, process: int) -> _State:
        """Goes on as long as the process does what nobody else can tell and what can go one way
        only.
        """
        while True:
            operation = self._operation(process, state.nodes[process])
            if isinstance(operation, Done) or not nas.is_local(
                self._worlds[state.world], process, operation, self._scenario.rules
            ):
                return state
            steps = [
                (outcome, world)
                for outcome, world in self._possible(
                    state.world, process, operation, state.caches[process]
                )
                if all(have >= need for have, need in zip(state.budget, outcome.cost, strict=True))
            ]
            if len(steps) != 1:
                return state
            outcome, world = steps[0]
            node = self._processes[process].step(state.nodes[process], outcome.answer)
            caches = _put(state.caches, process, outcome.cache)
            state = state._replace(
                world=world, nodes=_put(state.nodes, process, node), caches=caches
            )

    def _possible(
        self, world: int, process: int, operation: Any, cache: Cache
    ) -> list[tuple[nas.Outcome, int]]:
        key = (world, process, operation, cache)
        found = self._outcomes.get(key)
        if found is None:
            every = nas.outcomes(
                self._worlds[world], process, operation, cache, self._scenario.rules
            )
            found = self._outcomes[key] = [
                (outcome, self._number(outcome.world)) for outcome in every
            ]
        return found

    def _check_step(self, before: _State, after: _State) -> str | None:
        old, new = self._worlds[before.world], self._worlds[after.world]
        return (
            self._scenario.at_step(old, new)
            if self._scenario.at_step and old.chain != new.chain
            else None
        )

    def _check_end(self, state: _State) -> str | None:
        operations = [self._operation(process, node) for process, node in enumerate(state.nodes)]
        if not all(isinstance(operation, Done) for operation in operations):
            return None
        self._ends += 1
        results = [
            None if node == CRASHED else operation.result
            for node, operation in zip(state.nodes, operations, strict=True)
        ]
        return self._scenario.at_end(self._worlds[state.world], results)

    def _trace(self, state: _State) -> tuple[str, ...]:
        lines: list[str] = []
        while (parent := self._parents[state]) is not None:
            lines.append(self._describe(parent[0], state, parent[1]))
            state = parent[0]
        return tuple(lines[::-1])

    def _describe(self, before: _State, after: _State, note: str) -> str:
        moved = [
            process
            for process in range(len(before.nodes))
            if before.nodes[process] != after.nodes[process]
        ]
        if not moved:
            return note
        process = moved[0]
        name = "ABCDEFGH"[process]
        if after.nodes[process] == CRASHED:
            return f"{name} crashes"
        operation = brief(self._operation(process, before.nodes[process]))
        return f"{name} {operation}{f' ({note})' if note else ''}"


def brief(operation: Any) -> str:
    """An operation in one line."""
    text = repr(operation)
    return text if len(text) < 110 else f"{text[:80]}… {text[-25:]}"


def _put(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


def search(scenario: Scenario) -> Result:
    """Searches the whole scenario."""
    return Search(scenario).run()
