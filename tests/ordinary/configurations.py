"""Where the archive is said to be, and what the NAS is: one axis of the table."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.ordinary import mounts
from tests.ordinary.world import ADMIN, World


def _nothing(world: World) -> None:
    """Nothing."""


@dataclass(frozen=True)
class Setting:
    """`archive` is what the configuration says ({world} is the folder of everything).

    `make` prepares it, `befall` comes after copies went in. `good`: it is one that must work.
    `mounts`: needs a process that may mount; `kind` is the file system of the NAS.
    """

    archive: str = "archive"
    make: Callable[[World], None] = _nothing
    befall: Callable[[World], None] = _nothing
    good: bool = False
    mounts: bool = False
    kind: str = ""

    def possible(self) -> bool:
        """Whether it can be tried here."""
        return (not self.mounts or mounts.possible()) and (
            not self.kind or mounts.available(self.kind)
        )

    def apply(self, world: World) -> None:
        """Makes it so. A good archive that is configured later gets its marker by the command that
        `init` names.
        """
        if self.kind:
            _move_the_nas(world, self.kind)
        self.make(world)
        world.configure(
            self.archive.format(world=world.place),
            world.place / "beside",
            world.place / "second",
            world.place / "x",
        )
        ran = world.run(ADMIN, "init", "--lease-seconds", "10")
        named = re.search(r"`(mkdir -p .+? && echo .+?)`", ran.output)
        if named and (self.good or self.befall is not _nothing):
            subprocess.run(["sh", "-c", named[1]], check=True, stdin=subprocess.DEVNULL)


def _beside(world: World) -> None:
    (world.place / "beside" / "archive").mkdir(parents=True)


def _link_out(world: World) -> None:
    _beside(world)
    (world.nas / "linked").symlink_to(world.place / "beside" / "archive")


def _link_to_itself(world: World) -> None:
    (world.nas / "linked").symlink_to(".")


def _link_from_outside(world: World) -> None:
    (world.place / "second").symlink_to(world.nas)


def _own_mount(world: World) -> None:
    _beside(world)
    world.mounts.bind(world.place / "beside" / "archive", world.nas / "archive")


def _unmount(world: World) -> None:
    world.mounts.unmount(world.nas / "archive")


def _second_mount(world: World) -> None:
    world.mounts.bind(world.nas, world.place / "second")


def _second_mount_of_a_directory(world: World) -> None:
    world.mounts.bind(world.nas / "web01", world.place / "second")


def _move_the_nas(world: World, kind: str) -> None:
    """The NAS is a file system of its own, of that kind."""
    shutil.move(world.nas, world.aside / "nas")
    world.mounts.file_system(kind, world.folder / f"{kind}.image", world.nas)
    for path in (world.aside / "nas").iterdir():
        shutil.move(path, world.nas / path.name)
    (world.aside / "nas").rmdir()


CONFIGURATIONS: Final[Mapping[str, Setting]] = {
    "inside": Setting(good=True),
    "attic": Setting("attic", good=True),
    "nested": Setting("deep/er/archive", good=True),
    "outside": Setting("{world}/beside/archive", _beside, good=True),
    "outside, missing": Setting("{world}/missing/archive"),
    "linked to outside": Setting("linked", _link_out),
    "linked to the NAS": Setting("linked", _link_to_itself),
    "the NAS by a link": Setting("{world}/second", _link_from_outside),
    "a VM's directory by a link": Setting("{world}/second/web01", _link_from_outside),
    "dot": Setting("."),
    "sub and back": Setting("sub/.."),
    "dots to a neighbour": Setting("../x"),
    "the parent": Setting(".."),
    "the NAS itself": Setting("{world}/nas"),
    "vmstate": Setting("vmstate"),
    "in vmstate": Setting("vmstate/gen"),
    "a VM's directory": Setting("web01"),
    "in a VM's directory": Setting("db01/archive"),
    "a mount that goes": Setting("archive", _own_mount, _unmount, mounts=True),
    "the NAS mounted twice": Setting("{world}/second", _second_mount, mounts=True),
    "a VM's directory mounted twice": Setting(
        "{world}/second", _second_mount_of_a_directory, mounts=True
    ),
    **{f"on {kind}": Setting(good=True, mounts=True, kind=kind) for kind in mounts.KINDS},
}
