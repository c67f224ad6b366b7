"""One scenario, killed at its crash points, and what became of the promises."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.crash import promises
from tests.crash.doors import Kill, Moment, Point
from tests.crash.scenarios import Scenario, resolved
from tests.crash.world import KILLED, World

#: The end of one point is the beginning of the next: `before` alone meets every state that the NAS is in.
QUICK: Final[tuple[Moment, ...]] = ("before",)
EVERY: Final[tuple[Moment, ...]] = ("before", "torn", "after")


@dataclass
class Hunt:
    """What was done and found.

    `missed` are kills that came too late: another thread's points differ from run to run. `left` are those that there was no time for.
    """

    scenario: Scenario
    points: int = 0
    kills: int = 0
    missed: int = 0
    left: int = 0
    broken: dict[str, list[str]] = field(default_factory=dict)

    @property
    def survived(self) -> int:
        return self.kills - len(self.broken)


def hunt(
    world: World,
    scenario: Scenario,
    moments: Sequence[Moment],
    *,
    every: int = 1,
    where: str = "",
    mutants: Sequence[str] = (),
    seconds: float = math.inf,
) -> Hunt:
    """Kills the scenario's command at its points, each time from the same start, and lets the next tick run.

    At every `every`-th of those that have `where` in their name. After `seconds` no further kill is begun. The moments follow each other,
    in each the points in an order without order, so that what there is no time for is spread.
    """
    end = time.monotonic() + seconds
    done = Hunt(scenario)
    world.remember("start")
    command = resolved(world, scenario.command)
    before, view = promises.good_stamps(world), promises.view_of(world)
    points = list(dict.fromkeys(world.run(*command, settings=scenario.settings, mutants=mutants).points))
    done.points = len(points)
    if moments == QUICK:
        points = [point for point in points if not _is_routine(point)]
    points = [point for point in points if where in point.name]
    for kill in _kills(points[every // 2 :: every], moments):
        if time.monotonic() > end:
            done.left += 1
            continue
        world.recall("start")
        if world.run(*command, kill=kill, settings=scenario.settings, mutants=mutants).status != KILLED:
            done.missed += 1
            continue
        done.kills += 1
        problems = [*promises.broken_at_once(world, before, keep=scenario.keep), *promises.half_a_view(world, view)]
        try:
            _go_on(world, scenario, command, mutants)
            problems += promises.broken(world, scenario.states, scenario.orphans)
            problems += promises.broken_at_once(world, before, keep=scenario.keep)
        except AssertionError as error:
            problems.append(str(error))
        if problems:
            done.broken[f"killed {kill.moment} {kill.point}"] = problems
    return done


def _is_routine(point: Point) -> bool:
    """What every transaction does alike, of which the first one is enough for a quick look: its lease, a beat of the heart."""
    return (point.occurrence > 1 and "vmtool-dblock" in point.name) or "[heartbeat]" in point.name


def _kills(points: Sequence[Point], moments: Sequence[Moment]) -> Iterator[Kill]:
    for moment in moments:
        for point in random.Random(1).sample(points, len(points)):
            if moment != "torn" or point.can_tear:
                yield Kill(point, moment)


def _go_on(world: World, scenario: Scenario, command: Sequence[str], mutants: Sequence[str]) -> None:
    """The operator gives a command again; cron goes on by itself. What a day later is swept is swept."""
    if scenario.repeat:
        world.must(*command, statuses=scenario.repeat, settings=scenario.settings, mutants=mutants)
    world.tick(mutants=mutants)
    world.age_temporary_files()
    world.must("vmbackup-worker", "database", mutants=mutants)
    scenario.settled(world)
