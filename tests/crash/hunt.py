"""One scenario, killed at its crash points, and what became of the promises."""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.crash import promises
from tests.crash.doors import Kill, Moment, Point
from tests.crash.scenarios import Scenario, resolved
from tests.crash.world import KILLED, World

#: The end of one point is the beginning of the next: `before` alone meets every state that the NAS
#: is in.
QUICK: Final[tuple[Moment, ...]] = ("before",)
EVERY: Final[tuple[Moment, ...]] = ("before", "torn", "after")


#: Where the hunts of this process killed a program, at which moment: places have the same names in
#: all scenarios.
_met: set[tuple[str, Moment]] = set()


@dataclass
class Hunt:
    """What was done and found.

    `missed` are kills that came too late: another thread's points differ from run to run. `left`
    are those that there was no time for. `places` are the named places among the points, `met`
    those where a kill fell, in this hunt or in one before it.
    """

    scenario: Scenario
    points: int = 0
    places: int = 0
    met: int = 0
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
    seed: int | None = None,
) -> Hunt:
    """Kills the scenario's command at its points, each time from the same start, and lets the next
    tick run.

    At every `every`-th of those that have `where` in their name. First, however long that takes, at
    each place that no hunt of this process was at; then, until `seconds` have passed, at the
    others: the moments follow each other, in each the points in an order without order, so that
    what there is no time for is spread. With a `seed`, at an eighth as many, four at least, from a
    drawn one on.
    """
    end = time.monotonic() + seconds
    done = Hunt(scenario)
    world.remember("start")
    command = resolved(world, scenario.command)
    before, view = promises.good_stamps(world), promises.view_of(world)
    points = list(
        dict.fromkeys(world.run(*command, settings=scenario.settings, mutants=mutants).points)
    )
    scenario.achieved(world)
    scenario.ended(world)
    done.points = len(points)
    if moments == QUICK:
        points = [point for point in points if not _is_routine(point)]
    points = [point for point in points if where in point.name]
    begin = every // 2
    if seed is not None:
        every = max(every, min(8 * every, len(points) // 4))
        begin = random.Random(seed).randrange(max(1, min(every, len(points))))
    new, others = _kills(points[begin::every], moments)
    for number, kill in enumerate((*new, *others)):
        if number >= len(new) and time.monotonic() > end:
            done.left += 1
            continue
        world.recall("start")
        scenario.put_back(world)
        ran = world.run(*command, kill=kill, settings=scenario.settings, mutants=mutants)
        if ran.status != KILLED:
            scenario.ended(world)
            done.missed += 1
            continue
        done.kills += 1
        if not mutants:
            _met.add((kill.point.name, kill.moment))
        problems = [
            *promises.broken_at_once(world, before, keep=scenario.keep),
            *promises.half_a_view(world, view),
        ]
        try:
            scenario.at_once(world)
            _go_on(world, scenario, command, mutants)
            problems += promises.broken(world, scenario.states, scenario.orphans)
            problems += promises.broken_at_once(world, before, keep=scenario.keep)
        except AssertionError as error:
            problems.append(str(error))
        scenario.ended(world)
        if problems:
            done.broken[f"killed {kill.moment} {kill.point}"] = problems
    places = {point.name for point in points}
    done.places, done.met = len(places), len(places & {name for name, _ in _met})
    return done


def _is_routine(point: Point) -> bool:
    """What every transaction does alike, of which the first one is enough for a quick look.

    Its lease, a beat of the heart. So is what a server of disks tells each second.
    """
    if "[telling]" in point.name:
        return point.occurrence > 1
    return (point.occurrence > 1 and "vmtool-dblock" in point.name) or "[heartbeat]" in point.name


def _kills(points: Sequence[Point], moments: Sequence[Moment]) -> tuple[list[Kill], list[Kill]]:
    """The kills at places that no hunt was at, before and torn, and all others."""
    new: dict[tuple[str, Moment], Kill] = {}
    others: list[Kill] = []
    for moment in moments:
        for point in random.Random(1).sample(points, len(points)):
            if moment == "torn" and not point.can_tear:
                continue
            place = (point.name, moment)
            if moment == "after" or place in new or place in _met:
                others.append(Kill(point, moment))
            else:
                new[place] = Kill(point, moment)
    return list(new.values()), others


def _go_on(
    world: World, scenario: Scenario, command: Sequence[str], mutants: Sequence[str]
) -> None:
    """The operator gives a command again; cron goes on by itself.

    What a day later is swept is swept.
    """
    if scenario.repeat:
        world.must(*command, statuses=scenario.repeat, settings=scenario.settings, mutants=mutants)
    world.tick(mutants=mutants)
    world.age_temporary_files()
    world.must("vmbackup-worker", "database", mutants=mutants)
    scenario.settled(world)
