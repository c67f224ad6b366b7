"""Schedules that no search could exhaust, drawn by hypothesis.

Workers of all kinds come and go on three hosts, and everything fails.

Each rule is one thing that happens. What is wrong is found after each rule, and when in the end
everybody may go on undisturbed.
"""

from collections.abc import Callable
from math import inf
from types import UnionType
from typing import Any, Final

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from shared.state.records import Claim
from shared.state.store import operations as op
from shared.state.store import protocol
from shared.state.store.readable_view import render
from tests.protocol import claims, nas
from tests.protocol.actor import Actor, Line
from tests.protocol.always import BEAT_SECONDS, lost, unfinished, wrongly_expired
from tests.protocol.claims import LEASE_SECONDS, VM
from tests.protocol.nas import Cache, Outcome, Rules, World
from tests.protocol.process import Done, Process, Program
from tests.protocol.programs import (
    EDIT,
    LOG,
    answers_are_true,
    chain_grows,
    each_once,
    head_is_whole,
    nobody_is_alarmed,
    vm,
)
from tests.protocol.roles import ROLES, AskTime, ReadBeat, Sleep, operator, suspicious

HOSTS: Final = 3
#: Workers at once, and in one schedule.
AT_ONCE: Final = 5
WORKERS: Final = 16
#: No worker takes as many steps when nothing goes wrong, or changes as much.
ENOUGH: Final = 1_000
POWER_CUTS: Final = 2
#: How often workers of each kind are started.
WEIGHTS: Final = {
    "backup": 4,
    "notifier": 2,
    "recovery": 2,
    "archive": 1,
    "activate": 1,
    "pruner": 1,
    "editor": 1,
}
#: What others can notice, and the moments between two looks at a heartbeat.
CHANGES: Final = (
    Sleep
    | op.PublishGeneration
    | op.SyncGeneration
    | op.ReplaceView
    | op.KeepEditedView
    | op.MoveToHistory
    | nas.PlaceCopy
)
#: Longer than recovery may take: the lease time, and two looks at the heartbeats.
RECOVERED_SECONDS: Final = LEASE_SECONDS + 2 * BEAT_SECONDS


def _names(found: Callable[[Actor], bool]) -> st.SearchStrategy[str]:
    return st.runner().flatmap(
        lambda machine: st.sampled_from([actor.name for actor in machine.actors if found(actor)])
    )


def _any(found: Callable[[Actor], bool]) -> Callable[["Machine"], bool]:
    return lambda machine: any(map(found, machine.actors))


_RUNNING: Final = _names(lambda actor: actor.runs)
_some_run: Final = precondition(_any(lambda actor: actor.runs))
_may_start: Final = precondition(
    lambda machine: (
        len(machine.actors) < WORKERS and sum(actor.lives for actor in machine.actors) < AT_ONCE
    ),
)


class Machine(RuleBasedStateMachine):
    """A NAS and whoever works on it. `laws` is what the NAS does."""

    laws = Rules(prunes=True, passing=True)

    def __init__(self) -> None:
        super().__init__()
        first = nas.head(claims.new_database())
        self.world = nas.initial(
            protocol.encode(first.header, first.contents.with_vm(vm(LOG)))
        )._replace(power_cuts=POWER_CUTS)
        self.actors: list[Actor] = []
        known = frozenset(number for number, _ in self.world.generations)
        self.caches: list[Cache] = [known] * HOSTS
        self.now = 0.0
        #: For how long the NAS did not answer.
        self.outages = 0.0
        self.views = {EDIT, self.world.view}
        #: Set when something was found wrong: what happens at the end says nothing more then.
        self.broken = False

    # Who comes and goes

    @_may_start
    @rule(role=st.sampled_from([role for role, weight in WEIGHTS.items() for _ in range(weight)]))
    def starts(self, role: str) -> None:
        self._start(role, ROLES[role](self._next_name()))

    @_may_start
    @precondition(lambda self: self._live_sessions())
    @rule(victim=st.runner().flatmap(lambda machine: st.sampled_from(machine._live_sessions())))
    def is_suspected(self, victim: str) -> None:
        self._start("suspicious", suspicious(self._next_name(), victim))
        self._goes_on(self.actors[-1], op.PublishGeneration)

    @_may_start
    @precondition(lambda self: self._claim())
    @rule()
    def operator_breaks_the_claim(self) -> None:
        claim = self._claim()
        assert claim is not None
        self._start("operator", operator(self._next_name(), claim.session))
        self._goes_on(self.actors[-1], op.PublishGeneration)

    # Steps

    @_some_run
    @rule(worker=_RUNNING, steps=st.integers(1, 5))
    def goes_on(self, worker: str, steps: int) -> None:
        for _ in range(steps):
            self._goes_on(self._actor(worker))

    @_some_run
    @rule(worker=_RUNNING, times=st.integers(1, 4))
    def goes_on_until_it_changes_something(self, worker: str, times: int) -> None:
        for _ in range(times):
            self._goes_on(self._actor(worker), CHANGES)

    @_some_run
    @rule(worker=_RUNNING)
    def goes_on_to_its_end(self, worker: str) -> None:
        self._goes_on(self._actor(worker), Done)

    @precondition(lambda self: self._mishaps())
    @rule(what=st.runner().flatmap(lambda machine: st.sampled_from(machine._mishaps())))
    def goes_wrong(self, what: tuple[str, str]) -> None:
        actor = self._actor(what[0])
        self._step(
            actor, next(outcome for outcome in self._outcomes(actor) if outcome.note == what[1])
        )

    @precondition(lambda self: self._vulnerable())
    @rule(
        worker=st.runner().flatmap(lambda machine: st.sampled_from(machine._vulnerable())),
        dies=st.booleans(),
    )
    def falls_asleep_or_dies(self, worker: str, dies: bool) -> None:
        actor = self._actor(worker)
        actor.silent_since = self._heart_time()
        if dies:
            actor.crashed = True
            self._becomes(nas.crash(self.world, actor.number))

    @precondition(lambda self: self._late_events())
    @rule(what=st.runner().flatmap(lambda machine: st.sampled_from(machine._late_events())))
    def comes_late(self, what: str) -> None:
        self._late(what)

    @rule(seconds=st.sampled_from([BEAT_SECONDS, LEASE_SECONDS, 10 * LEASE_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([LEASE_SECONDS, 10 * LEASE_SECONDS]))
    def nas_does_not_answer(self, seconds: float) -> None:
        self.now += seconds
        self.outages += seconds

    @precondition(
        lambda self: self.world.power_cuts and self.world.synced < self.world.generations[-1][0]
    )
    @rule(private_names_too=st.booleans())
    def nas_loses_its_power(self, private_names_too: bool) -> None:
        self._becomes(list(nas.power_cut(self.world, self.laws))[private_names_too])

    # What must hold

    def teardown(self) -> None:
        """Everybody goes on undisturbed to the end.

        Then the next tick finds a way on from whatever was left.
        """
        if self.broken:
            return
        note("in the end everybody goes on undisturbed")
        for actor in self.actors:
            if actor.sleeps:
                self._late(actor.name)
        for _ in range(ENOUGH):
            if not any(actor.lives for actor in self.actors):
                break
            for actor in self.actors:
                self._goes_on(actor, CHANGES)
        self._require(
            next(
                (f"{actor.name} does not come to an end" for actor in self.actors if actor.lives),
                None,
            )
        )
        while self.world.pending:
            self._becomes(nas.execute(self.world, self.world.pending[0], self.laws))
        self._check_answers()
        self._check_next_tick()

    def _check_answers(self) -> None:
        results = self._results()
        changed = [
            result
            for actor, result in zip(self.actors, results, strict=True)
            if actor.role == "notifier"
        ]
        self._require(each_once(self.world, changed))
        self._require(nobody_is_alarmed(self.world, results))
        self._require(answers_are_true(self.world, results))
        # Pruning here leaves so little that a view may be older than all of it. In production that
        # takes 128 commits without a view.
        pruned = {render(nas.read(data, number).contents) for number, data in self.world.history}
        if self.world.power_cuts == POWER_CUTS and not self.world.kept <= {EDIT, *pruned}:
            self._require(f"an edit was reported that nobody had made: {sorted(self.world.kept)}")

    def _check_next_tick(self) -> None:
        note("the next tick")
        began = self.now
        self._start("recovery", ROLES["recovery"](self._next_name()))
        tick = self.actors[-1]
        self._goes_on(tick, Done)
        self._require(None if not tick.lives else "the next tick does not come to an end")
        if self.now - began > RECOVERED_SECONDS:
            self._require(f"recovery took {self.now - began:g} s")
        self._require(unfinished(self.world))

    # How

    def _start(self, role: str, program: Program) -> None:
        self.actors.append(
            Actor(self._next_name(), role, len(self.actors), Process(program), since=self.now)
        )

    def _next_name(self) -> str:
        return chr(ord("A") + len(self.actors))

    def _actor(self, name: str) -> Actor:
        return self.actors[ord(name) - ord("A")]

    def _vulnerable(self) -> list[str]:
        """Workers that would leave something behind.

        Before anything else they may as well not have been started.
        """
        live = self._live_sessions()
        return [
            actor.name
            for actor in self.actors
            if actor.runs and (actor.name in live or isinstance(actor.operation, CHANGES))
        ]

    def _live_sessions(self) -> list[str]:
        return [
            row.id for row in nas.head(self.world).contents.sessions.values() if row.state == "live"
        ]

    def _claim(self) -> Claim | None:
        return nas.head(self.world).contents.vms[VM].claim

    def _mishaps(self) -> list[tuple[str, str]]:
        begun = (actor for actor in self.actors if actor.runs and actor.node)
        return [
            (actor.name, outcome.note) for actor in begun for outcome in self._outcomes(actor)[1:]
        ]

    def _late_events(self) -> list[str]:
        """Workers that sleep, and requests that were delayed in the network."""
        return [actor.name for actor in self.actors if actor.sleeps] + [
            f"request {which}" for which, _ in enumerate(self.world.pending)
        ]

    def _late(self, what: str) -> None:
        if what.startswith("request"):
            self._becomes(
                nas.execute(
                    self.world, self.world.pending[int(what.removeprefix("request"))], self.laws
                )
            )
            return
        actor = self._actor(what)
        actor.longest_silence, actor.silent_since = actor.silence(self._heart_time()), None

    def _goes_on(self, actor: Actor, until: type | UnionType = object) -> None:
        """One step and those that follow, until the worker is about to do such an operation, or has
        ended.
        """
        for _ in range(ENOUGH):
            if actor.runs:
                self._step(actor, self._outcomes(actor)[0])
            if not actor.runs or isinstance(actor.operation, until):
                return

    def _outcomes(self, actor: Actor) -> list[Outcome]:
        """Every way in which the worker's next operation may go.

        First that in which nothing is wrong.
        """
        cache = self.caches[actor.number % HOSTS]
        match actor.operation:
            case AskTime():
                return [Outcome("", self.now, self.world, cache)]
            case Sleep():
                return [Outcome("", None, self.world, cache)]
            case ReadBeat(session):
                answers = {
                    "": self._beat(session, 0),
                    "stale": self._beat(session, 1),
                    "refused": nas.REFUSED,
                }
                return [
                    Outcome(text, answer, self.world, cache) for text, answer in answers.items()
                ]
        return list(nas.outcomes(self.world, actor.number, actor.operation, cache, self.laws))

    def _beat(self, session: str, age: int) -> bytes | None:
        actor = self._actor(session[0])
        if session != actor.name or not (actor.lives or actor.crashed):
            return None
        beating = self._heart_time() if actor.silent_since is None else actor.silent_since
        return b"%d" % (beating // BEAT_SECONDS - age)

    def _heart_time(self) -> float:
        """For how long hearts could beat."""
        return self.now - self.outages

    def _step(self, actor: Actor, outcome: Outcome) -> None:
        note(Line(actor, outcome))
        if isinstance(actor.operation, Sleep):
            self.now = max(self.now, actor.since + actor.operation.seconds)
        self.caches[actor.number % HOSTS] = outcome.cache
        actor.node = actor.process.step(actor.node, outcome.answer)
        actor.since = self.now
        self._becomes(outcome.world)

    def _becomes(self, world: World) -> None:
        before, self.world = self.world, world
        if before.chain != world.chain:
            self._require(chain_grows(before, world))
            self._require(head_is_whole(world, ()))
        if len(world.chain) > len(before.chain):
            head = nas.read(world.chain[-1], len(world.chain))
            self.views.add(render(head.contents))
            by_recovery = self._actor(head.header.session[0]).role == "recovery"
            self._require(
                lost(before, head)
                or (wrongly_expired(before, head, self._silence) if by_recovery else None)
            )
        if (before.chain, before.placed) != (world.chain, world.placed):
            self._require(claims.copies_are_announced(world, ()))
        if world.view not in self.views:
            self._require(f"vmtool-statedb shows what no generation says: {world.view!r}")

    def _silence(self, session: str) -> float:
        """For how long the worker of a session has been silent at a time.

        For ever if it is no more.
        """
        actor = self._actor(session[0])
        return actor.silence(self._heart_time()) if actor.lives else inf

    def _results(self) -> list[Any]:
        return [
            actor.operation.result if isinstance(actor.operation, Done) else None
            for actor in self.actors
        ]

    def _require(self, violation: str | None) -> None:
        if violation is not None:
            self.broken = True
            raise AssertionError(violation)
