"""What the programs make on the NAS can be read and written by those who should, whatever the umask
is.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.scenarios import ADMIN, VM, WORKER, found, use
from tests.crash.world import Programs, World

GROUP = 54321
OTHER_USER = 54322


def modes(folder: Path) -> Iterator[tuple[Path, int, int]]:
    for path in folder.rglob("*"):
        status = path.lstat()
        yield path, stat.S_IMODE(status.st_mode), status.st_gid


def expected(world: World, path: Path, *, shared: bool) -> tuple[int, ...]:
    """The rights that a path on the NAS may have."""
    if path.is_relative_to(world.state):
        return (0o2770,) if path.is_dir() else (0o660,)
    if (
        path.is_dir()
    ):  # a directory of copies; on a NAS directory with the setgid bit it has that, too
        return (0o2770,) if shared else (0o750, 0o2750)
    return (0o660,) if shared else (0o640,)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_rights_do_not_depend_on_the_umask(
    make_world: Callable[..., World], umask: int, shared: bool
) -> None:
    world = make_world(shared_group=shared, umask=umask)
    if os.geteuid() == 0:
        os.chown(world.nas, -1, GROUP)
    world.nas.chmod(0o2770)
    found(world)
    for _ in range(2):
        use(world)
        world.tick()
    world.must(ADMIN, "archive", VM)
    world.must(ADMIN, "activate", VM)
    world.must(
        WORKER,
        "database",
        settings={"worker.database.KEEP_GENERATIONS": 3, "worker.database.PRUNE_SLACK": 0},
    )
    wrong = [
        f"{path.relative_to(world.nas)}: {mode:o}, group {group}"
        for path, mode, group in modes(world.nas)
        if mode not in expected(world, path, shared=shared) or group != world.nas.stat().st_gid
    ]
    assert wrong == []
    assert (world.nas / VM).is_dir()
    assert any((world.state / "history").iterdir())


@pytest.fixture
def open_world(programs: Programs) -> Iterator[World]:
    """A world that other users can get at."""
    folder, elsewhere = (
        Path(tempfile.mkdtemp(prefix="vmbackup-rights.", dir="/dev/shm")) for _ in range(2)
    )
    folder.chmod(0o755)
    world = World(folder, elsewhere / "archive", programs, shared_group=True, umask=0o077)
    yield world
    world.host.remove()
    shutil.rmtree(folder)
    shutil.rmtree(elsewhere)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
def test_hosts_whose_workers_run_as_different_users_share_a_group(open_world: World) -> None:
    world = open_world
    os.chown(world.nas, -1, GROUP)
    world.nas.chmod(0o2770)
    found(world)
    use(world)
    world.tick()
    notes = world.folder / "notes"
    notes.mkdir(mode=0o700)
    os.chown(notes, OTHER_USER, GROUP)
    text = world.configuration.read_text(encoding="utf-8").replace(
        str(world.folder / "world" / "state"), str(notes)
    )
    world.configuration.write_text(
        text.replace('node = "alpha"', 'node = "beta"'), encoding="utf-8"
    )
    world.configuration.chmod(0o644)
    other = (OTHER_USER, GROUP)
    world.environment = {"VMBACKUP_NODE": "beta"}
    for command in (
        (ADMIN, "archive", VM),
        (WORKER, "database"),
        (ADMIN, "activate", VM),
        (ADMIN, "verify", VM),
    ):
        world.must(*command, user=other)
    assert world.record(VM).status == "BACKUP_NECESSARY", (
        "whether it was used only its own host can tell"
    )
    stranger = world.run(ADMIN, "status", user=(OTHER_USER, OTHER_USER))
    assert stranger.status == 13, stranger.output
    assert "Permission denied" in stranger.output
