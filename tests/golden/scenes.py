"""The scenes of the golden data.

Run by `make.py`, with the packages and tests of the release that is to make them, and nothing of
ours.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.doors import Kill, Point
from tests.crash.world import KILLED, Programs, World

WORKER, ADMIN = "vmbackup-worker", "vmbackup-admin"
#: The commit that a copy will be put in place.
INTENT = ("link vmstate/gen", "publish.intend")
#: While the VM is exported; what was done to it is not undone yet.
EXPORTING = ("fsync web", "partial.vbox")
#: What stands for the folder of the scene in the files of its hosts.
PLACE = "@PLACE@"


def vm(world: World, name: str) -> str:
    """The UUID of a VM that the database knows."""
    return world.record(name).uuid


def use(world: World, name: str) -> None:
    """The VM is used, and stopped."""
    world.host.run("startvm", vm(world, name), "--type=headless")
    world.host.run("controlvm", vm(world, name), "poweroff")


def killed(world: World, moment: str, *parts: str) -> None:
    """The backup that is due is killed at the first write that has all these parts in its name."""
    world.remember("before")
    points = world.run(WORKER, "backup").points
    world.recall("before")
    point = next(point for point in points if all(part in point.name for part in parts))
    assert (
        world.run(WORKER, "backup", kill=Kill(Point(point.name, point.occurrence), moment)).status
        == KILLED
    )  # type: ignore[arg-type]


def ordinary(world: World) -> None:
    """Every kind of VM and copy at once.

    The last backup was killed while it wrote a copy of half01.
    """
    world.configure(keep_last=6)
    for name in ("web01", "old01", "run01", "gone01", "half01"):
        world.host.make_vm(name, mib=1, random_mib=0)
    world.initialise()
    world.tick()
    for _ in range(3):
        use(world, "web01")
        world.tick()
    stamps = sorted(path.stem for path in (world.nas / "web01").glob("*.ova"))
    world.must(ADMIN, "pin", "web01", stamps[0])
    world.must(ADMIN, "verify", "web01")
    damaged = world.nas / "web01" / f"{stamps[1]}.ova"
    damaged.chmod(0o640)
    damaged.write_bytes(damaged.read_bytes()[:-4096] + b"x" * 4096)
    world.must(ADMIN, "verify", "web01", statuses=(3,))
    world.must(ADMIN, "archive", "old01")
    world.host.run("startvm", vm(world, "run01"), "--type=headless")
    world.host.run("unregistervm", vm(world, "gone01"))
    world.tick()
    world.must(ADMIN, "forget", "gone01")
    world.must(
        WORKER,
        "database",
        settings={"worker.database.KEEP_GENERATIONS": 8, "worker.database.PRUNE_SLACK": 0},
    )
    use(world, "half01")
    world.must(WORKER, "notifier")
    killed(world, "before", *INTENT)


def live(world: World) -> None:
    """web01 runs, and its live backup was killed.

    Snapshot and clone are there, and the note of them is committed.
    """
    world.host.make_vm("web01", mib=1, random_mib=0)
    world.initialise()
    world.tick()
    world.host.run("startvm", vm(world, "web01"), "--type=headless")
    world.configure(running="live", running_hours=0)
    world.must(WORKER, "notifier")
    world.must(WORKER, "notifier")
    killed(world, "before", *EXPORTING)


def publication(world: World) -> None:
    """The backup of web01 was killed when it had committed that its second copy will be put in
    place.
    """
    world.host.make_vm("web01", mib=1, random_mib=0)
    world.initialise()
    world.tick()
    use(world, "web01")
    world.must(WORKER, "notifier")
    killed(world, "after", *INTENT)


def version_1_0(world: World) -> None:
    """A database of version 1.0, as the programs before this one wrote it.

    The release has not touched it.
    """
    world.host.make_vm("web01", mib=1, random_mib=0)
    world.state.mkdir()
    (world.state / "vmtool-db-version").write_text(
        "TOOL_VERSION: 1.0\nDB_VERSION: 1.0\n", encoding="utf-8"
    )
    (world.state / "vmtool-statedb").write_text("web01:CLEAN\n", encoding="utf-8")


def migrated(world: World) -> None:
    """The same, taken over by the release; no host has looked since."""
    version_1_0(world)
    world.must(ADMIN, "statedb", "migrate", "--lease-seconds", "10")


SCENES: tuple[Callable[[World], None], ...] = (ordinary, live, publication, version_1_0, migrated)


def pack(world: World, place: Path, archive: Path) -> None:
    """Keeps the NAS and the host.

    The place where they were made is a word, in the files that are text.
    """
    while world.host.exports():  # what a killed worker left running
        time.sleep(0.05)
    for path in world.host.home.parent.rglob("*"):
        if path.is_file() and path.suffix != ".vdi" and str(place).encode() in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(str(place).encode(), PLACE.encode()))
    parts = ["nas", "hosts"]
    made = [
        "tar",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "-cJf",
        str(archive),
        "-C",
        str(place),
        *parts,
    ]
    subprocess.run(made, check=True)


def main(folder: Path, target: Path) -> None:
    """Makes each scene anew."""
    target.mkdir(exist_ok=True)
    folder.mkdir()
    programs = Programs()
    for scene in SCENES:
        world = World(folder / scene.__name__, folder / "elsewhere", programs)
        scene(world)
        pack(
            world,
            folder / scene.__name__ / "world",
            target / f"{scene.__name__.replace('_', '-')}.tar.xz",
        )
        print(
            f"{scene.__name__}: "
            f"{(target / (scene.__name__.replace('_', '-') + '.tar.xz')).stat().st_size} bytes"
        )
    programs.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
