"""The table: configurations x commands x histories of the database x names, and how one cell of it
is run.
"""

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.ordinary import commands, configurations, histories, names
from tests.ordinary.world import ADMIN, World


@dataclass(frozen=True)
class Cell:
    """One case of the table."""

    configuration: str
    command: str
    history: str = "new"
    names: str = "plain"

    def __str__(self) -> str:
        return f"{self.configuration} | {self.command} | {self.history} | {self.names}"


@dataclass
class Tally:
    """What was run, for the line that a run prints."""

    ran: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    impossible: Counter[str] = field(default_factory=Counter)
    wrong: dict[Cell, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            (
                f"{self.ran.total()} cells ran, {self.refused.total()} of them refused their "
                f"command; {len(self.wrong)} are wrong"
            )
        ]
        lines += [
            f"  {name}: {self.ran[name]} ran, {self.refused[name]} refused"
            for name in sorted(self.ran)
        ]
        lines += [
            f"  not possible here (needs root, or that file system): {name}, {count} cells"
            for name, count in self.impossible.items()
        ]
        return "\n".join([*lines, *(f"WRONG: {cell}\n{why}" for cell, why in self.wrong.items())])


def cells() -> list[Cell]:
    """All of it: the full product of configurations, commands and histories, and of names with
    commands and histories.

    Names take turns along the first, so that each pair of values of any two axes is in it.
    """
    turns = itertools.cycle(names.NAMES)
    wide = [
        Cell(configuration, command, history, next(turns))
        for configuration, command, history in itertools.product(
            configurations.CONFIGURATIONS, commands.COMMANDS, histories.HISTORIES
        )
    ]
    deep = [
        Cell("inside", *rest)
        for rest in itertools.product(commands.COMMANDS, histories.HISTORIES, names.NAMES)
    ]
    return list(dict.fromkeys([*wide, *deep]))


def pairs_of(cell: Cell) -> set[tuple[tuple[int, str], ...]]:
    """The pairs of values of two axes that a cell is a case of."""
    return set(itertools.combinations(enumerate(dataclasses.astuple(cell)), 2))


def covering(seed: int) -> set[Cell]:
    """Few cells in which each pair of values of any two axes is: nearly all faults need but two."""
    draw = random.Random(seed)
    left, chosen = cells(), set()
    draw.shuffle(left)
    wanted = set().union(*map(pairs_of, left))
    for new in range(len(pairs_of(left[0])), 0, -1):
        for cell in left:
            if len(wanted & pairs_of(cell)) >= new:
                chosen.add(cell)
                wanted -= pairs_of(cell)
    return chosen


def drawn(seed: int, among: Iterable[Cell]) -> Iterator[Cell]:
    """Cells in a drawn order, those with one beginning together.

    A beginning takes longer to make than a cell to run.
    """
    draw = random.Random(seed)
    beginnings: dict[tuple[str, str], list[Cell]] = {}
    for cell in among:
        beginnings.setdefault((cell.names, cell.history), []).append(cell)
    order = list(beginnings.values())
    draw.shuffle(order)
    for group in order:
        draw.shuffle(group)
    return itertools.chain.from_iterable(order)


def begin(world: World, cell: Cell) -> None:
    """The NAS, its VMs and its database as the cell finds them."""
    whole = f"{cell.names}, {cell.history}"
    if not _again(world, whole):
        if not _again(world, cell.names):
            world.fresh()
            names.prepare(world, cell.names)
            _keep(world, cell.names)
        histories.befall(world, cell.history)
        _keep(world, whole)
    world.told.clear()


def _keep(world: World, name: str) -> None:
    world.remember(name)
    world.kept[name] = world.diary.copy()


def _again(world: World, name: str) -> bool:
    if name not in world.kept or not world.recall(name):
        return False
    world.diary = world.kept[name].copy()
    return True


def run(world: World, cell: Cell) -> int:
    """Runs the cell; AssertionError if anything is wrong. Answers the command's exit code."""
    setting = configurations.CONFIGURATIONS[cell.configuration]
    try:
        begin(world, cell)
        setting.apply(world)
        world.step(ADMIN, "archive", names.DB)
        setting.befall(world)
        status = commands.COMMANDS[cell.command](world)
        if setting.good and cell.history == "new" and cell.names == "plain":
            assert status in REQUIRED.get(cell.command, (0,)), world.story(
                f"{cell}: ended with {status}"
            )
        _aftermath(world, goes_on=setting.good)
        return status
    finally:
        world.mounts.end()
        world.backup.clear()


#: How commands must end where nothing is in their way.
REQUIRED: Final = {
    "init": (11,),
    "doctor": (0, 1),
    "recover": (0, 11),
    "remove": (15,),
    "run live": (0, 4),
}


def _aftermath(world: World, *, goes_on: bool) -> None:
    """Uses the VM and backs it up, if all is well; then `restore` takes its newest copy."""
    for vm in (
        vm
        for vm in world.look().vms["alpha"].values()
        if vm.name == names.WEB and vm.state != "running"
    ):
        world.use(world.vm(vm.name))
        world.tick()
        states = [
            record["status"]
            for record in world.look().records.values()
            if record["uuid"] == vm.uuid and record["node"] == "alpha"
        ]
        assert not goes_on or states in ([], ["CLEAN"], ["ARCHIVED"]), world.story(
            f"{vm.name} is not backed up: {states}"
        )
    for key in sorted(world.look().records):
        newest = commands.newest_of(world, key)
        status, plan = world.document(
            ADMIN, "restore", key, "--as", commands.ON_TRIAL, "--dry-run", "--json", host="beta"
        )
        stamp = plan.get("copy", plan.get("stamp")) if status == 0 else None
        wrong = status == 0 and (newest is None or stamp != newest.stamp)
        assert not wrong, world.story(f"restore {key} would take {stamp}; the newest is {newest}")


def run_all(world: World, chosen: Iterable[Cell], tally: Tally, more: Iterator[bool]) -> None:
    """Runs cells until there is none, or `more` says that it is enough."""
    for cell in chosen:
        if not next(more):
            return
        if not configurations.CONFIGURATIONS[cell.configuration].possible():
            tally.impossible[cell.configuration] += 1
            continue
        tally.ran[cell.command] += 1
        try:
            tally.refused[cell.command] += run(world, cell) not in (0, 3, 4)
        except AssertionError as error:
            tally.wrong[cell] = str(error)
