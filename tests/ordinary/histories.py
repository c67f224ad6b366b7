"""What befell the state database: one axis of the table.

What the messages say is done, as the operator's manual tells.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.crash.world import Ran
from tests.ordinary.oracle import Step
from tests.ordinary.world import ADMIN, HOSTS, WORKER, World


def follow(world: World) -> list[str]:
    """On each host another database is accepted where a message says so, as long as one does.

    Answers their names.
    """
    accepted = []
    for host in HOSTS:
        for _ in range(3):
            said = " ".join(world.run(WORKER, "vmfind", host=host).output.split())
            if "`vmbackup-admin statedb accept`" not in said:
                break
            world.run(ADMIN, "statedb", "accept", "--yes", host=host)
            accepted.append(host)
    return accepted


def make_anew(world: World) -> Ran:
    """`init` after the database was lost.

    Where it names the marker that the lost one left, that goes, and it runs again.
    """
    ran = world.run(ADMIN, "init", "--lease-seconds", "10")
    if marker := re.search(
        r"remove (\S+/\.vmbackup-archive), and run the command again", ran.output
    ):
        Path(marker[1]).unlink()
        ran = world.run(ADMIN, "init", "--lease-seconds", "10")
    assert ran.status == 0, world.story("no database could be made")
    return ran


def _new(world: World) -> None:
    """Nothing."""


def _lost(world: World) -> None:
    """It is gone, and was made anew."""
    shutil.rmtree(world.state)
    follow(world)
    make_anew(world)


def _rebuilt(world: World) -> None:
    """It is gone, and was made anew of the copies."""
    shutil.rmtree(world.state)
    ran = world.run(ADMIN, "statedb", "rebuild", "--lease-seconds", "10")
    assert ran.status == 0, world.story("no database could be made of the copies")
    follow(world)


def _copied(world: World) -> None:
    """The copies came from another NAS without their times, in the wrong order, and the database
    did not come.
    """
    for number, path in enumerate(sorted(world.nas.rglob("*.ova"), reverse=True)):
        os.utime(path, (1_700_000_000 + number,) * 2)
    _lost(world)


def _older(world: World) -> None:
    """It was put back from a backup of the NAS."""
    shutil.rmtree(world.state)
    shutil.copytree(world.aside / "older", world.state, symlinks=True)
    follow(world)


def _set_aside(count: int) -> Callable[[World], None]:
    def befall(world: World) -> None:
        """Its newest generations are damaged, and were set aside one after the other."""
        numbers = sorted(int(path.name) for path in (world.state / "gen").iterdir())[-count:]
        for number in numbers:
            damage_generation(world, number)
        for number in reversed(numbers):
            world.run(ADMIN, "statedb", "check", "--set-aside", str(number))
        follow(world)

    return befall


def damage_generation(world: World, number: int) -> None:
    """Turns one bit of a generation."""
    path = next(path for path in (world.state / "gen").iterdir() if int(path.name) == number)
    path = path / "snapshot" if path.is_dir() else path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o640)
    path.write_bytes(data)


def _foreign(world: World) -> None:
    """That of another NAS lies there: it knows nothing of these VMs, and its numbers begin anew."""
    other = world.aside / "foreign"
    shutil.move(world.state, world.aside / "mine")
    notes = {host: world.notes(host) for host in HOSTS}
    for host, place in notes.items():
        if place.exists():
            shutil.move(place, world.aside / f"notes-{host}")
    make_anew(world)
    shutil.move(world.state, other)
    for host, place in notes.items():
        shutil.rmtree(place, ignore_errors=True)
        if (world.aside / f"notes-{host}").exists():
            shutil.move(world.aside / f"notes-{host}", place)
    shutil.copytree(other, world.state, symlinks=True)
    follow(world)


HISTORIES: Final[Mapping[str, Callable[[World], None]]] = {
    "new": _new,
    "lost": _lost,
    "lost, copies copied": _copied,
    "rebuilt": _rebuilt,
    "older": _older,
    "one set aside": _set_aside(1),
    "many set aside": _set_aside(9),
    "foreign": _foreign,
}


def befall(world: World, history: str) -> None:
    """Lets it happen, and the workers look again.

    No copy, VM or file may be different after all that.
    """
    before = world.look()
    HISTORIES[history](world)
    for worker in ("vmfind", "notifier"):
        for host in HOSTS:
            world.run(WORKER, worker, host=host)
    world.judge(before, Step(f"the database: {history}", forgets=True))
    assert world.look().generation > 0, world.story(f"{history}: there is no database")
