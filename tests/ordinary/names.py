"""What VMs are called, and what befell those that were called so before: one axis of the table.

Each begins with a new database.
"""

import shutil
from collections.abc import Callable, Mapping
from typing import Final

from tests.ordinary.world import ADMIN, WORKER, World

WEB, DB = "web01", "db01"


def _lived_in(world: World) -> None:
    """Two VMs of alpha, with two copies and one.

    A copy of `vmstate` as it was before the last of them.
    """
    web, _ = world.make(WEB), world.make(DB)
    world.step(ADMIN, "init", "--lease-seconds", "10", allowed=(0,))
    world.tick()
    keep_state(world, "older")
    for _ in range(3):
        world.use(web)
        world.tick()


def keep_state(world: World, name: str) -> None:
    """Makes a backup of the database, as a snapshot of the NAS would."""
    shutil.copytree(world.state, world.aside / name, symlinks=True)


def _plain(world: World) -> None:
    """Nothing more."""


def _namesakes(world: World) -> None:
    """Another host has a VM of the same name."""
    world.make(WEB, "beta")
    world.tick("beta")


def _like_ours(world: World) -> None:
    """VMs and a snapshot of the user are called what the programs call their own next.

    The history gives them their numbers.
    """
    world.make("vmbackup-1")
    world.make("vmbackup-rehearsal-20261122T203800Z-17")
    world.hosts["alpha"].run("snapshot", world.vm(WEB).uuid, "take", "vmbackup-2")
    world.use(world.vm(WEB))
    world.tick()


def _reserved(world: World) -> None:
    """VMs are called what directories of the NAS are called."""
    for name in ("archive", "attic", "vmstate", "."):
        world.make(name)
    world.tick()


def _folded(world: World) -> None:
    """Names that some file systems take for one."""
    for name in ("Web01", "WEB01", "we\u0301b", "w\u00e9b"):
        world.make(name)
    world.tick()


def _forgotten(world: World) -> None:
    """A VM was deleted and forgotten, and another one has its name now."""
    _take_away(world)
    world.step(ADMIN, "forget", WEB, allowed=(0,))
    world.make(WEB)
    world.tick()


def _reborn(world: World) -> None:
    """A VM was deleted, and another one has its name now; nobody forgot the first."""
    _take_away(world)
    world.make(WEB)
    world.tick()


def _take_away(world: World) -> None:
    """The user unregisters the VM and moves its files elsewhere."""
    vm = world.vm(WEB)
    world.hosts["alpha"].run("unregistervm", vm.uuid)
    for path in (vm.disk, world.place / "hosts" / "alpha" / "vms" / WEB):
        path.rename(path.with_name(f"{path.name}.moved-away"))
    world.run(WORKER, "vmfind")


NAMES: Final[Mapping[str, Callable[[World], None]]] = {
    "plain": _plain,
    "namesakes on two hosts": _namesakes,
    "like ours": _like_ours,
    "reserved": _reserved,
    "folded": _folded,
    "forgotten and made anew": _forgotten,
    "deleted and made anew": _reborn,
}


def prepare(world: World, names: str) -> None:
    """Makes the VMs and their copies."""
    _lived_in(world)
    NAMES[names](world)
