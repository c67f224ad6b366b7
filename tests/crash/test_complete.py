"""No command is forgotten.

Each is interrupted in a scenario, or is shown to write nothing to the NAS.
"""

from collections.abc import Callable, Iterator
from types import FunctionType

import click

from shared.state.store import database, operations, state_files
from tests.crash import from_copies
from tests.crash.doors import BETWEEN
from tests.crash.scenarios import ADMIN, LOCK, SCENARIOS, STAMP, VM, WORKER, copies, resolved
from tests.crash.world import World
from tests.support.command_lines import PROGRAMS

#: Commands that only look. Each is run, and must have no crash point.
LOOKING = (
    (ADMIN, "status"),
    (ADMIN, "show", VM),
    (ADMIN, "check", VM),
    (ADMIN, "copies", VM),
    (ADMIN, "metrics", "--json"),
    (ADMIN, "page", "--json"),
    (ADMIN, "notify"),
    (ADMIN, "log"),
    (ADMIN, "report"),
    (ADMIN, "space"),
    (ADMIN, "config", "generate"),
    (ADMIN, "config", "validate"),
    (ADMIN, "config", "show"),
    (ADMIN, "config", "schema"),
    (ADMIN, "statedb", "check"),
    (ADMIN, "statedb", "accept"),
    (ADMIN, "restore", VM, "--dry-run", "--as", "restored"),
    (ADMIN, "prune", "--dry-run"),
    (ADMIN, "verify", "--all", "--dry-run"),
    (ADMIN, "archive", VM, "--dry-run"),
    (ADMIN, "pin", VM, STAMP, "--dry-run"),
    (WORKER, "backup", "--dry-run"),
    (WORKER, "verify", "--dry-run"),
)
#: Commands that only look at disks, which the copies here are not: they end as they like.
AT_DISKS = (
    (ADMIN, "files", VM),
    (ADMIN, "compare", VM, STAMP, STAMP),
    (ADMIN, "mount", VM, "/nowhere", "--dry-run"),
    (ADMIN, "umount", "/nowhere", "--dry-run"),
)
#: `run` starts the others as processes of their own. `show` is `list` for one lock.
ALIKE = {(WORKER, "run"), (LOCK, "show")}


def commands() -> Iterator[tuple[str, ...]]:
    for name, program in PROGRAMS.items():
        for word in program.list_commands(click.Context(program)):
            command = program.get_command(click.Context(program), word)
            for below in command.commands if isinstance(command, click.Group) else ("",):
                yield tuple(filter(None, (name, word, below)))


def test_every_command_is_interrupted_or_only_looks() -> None:
    scenarios = (*SCENARIOS, *from_copies.SCENARIOS)
    known = {scenario.command for scenario in scenarios} | {*LOOKING, *AT_DISKS}
    assert [
        command
        for command in commands()
        if command not in ALIKE and not any(each[: len(command)] == command for each in known)
    ] == []


def test_commands_that_look_write_nothing(make_world: Callable[..., World]) -> None:
    world = make_world()
    copies(1)(world)
    for command in LOOKING:
        ran = world.run(*resolved(world, command))
        assert (ran.status, ran.points) == (0, ()), (command, ran.output)
    for command in AT_DISKS:
        ran = world.run(*resolved(world, command))
        assert ran.points == (), (command, ran.output)


def test_what_every_way_passes_is_called_so() -> None:
    """Else the names of points say that, and not who is at work."""
    known = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in (database, operations, state_files)
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__
        for name, of in vars(each).items()
        if isinstance(of, FunctionType)
    }
    assert {name for name in BETWEEN if name != "cli."} <= known
