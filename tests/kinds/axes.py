"""The axes of the table, and cells drawn from their product."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import prod

#: Long names are counted in bytes: this one has 86, and a number in front of it.
LONG = "é" * 43


@dataclass(frozen=True)
class Cell:
    """One VM: a value of each axis. By itself: a plain one that is off, exported by itself."""

    controller: str = "sata"
    format: str = "VDI"
    kind: str = "normal"
    firmware: str = "bios"
    group: str = ""
    name: str = "plain"
    description: str = ""
    medium: str = ""
    serial: str = ""
    teleporter: bool = False
    snapshots: int = 0
    linked: bool = False
    state: str = "poweroff"
    running: str = "savestate"
    engine: str = "auto"

    @property
    def runs(self) -> bool:
        return self.state in ("running", "paused")

    @property
    def saved(self) -> bool:
        return self.state in ("saved", "memory gone")


AXES: dict[str, tuple[object, ...]] = {
    "controller": ("sata", "ide", "scsi", "sas", "scsi+sas", "nvme", "virtio-scsi", "usb"),
    "format": ("VDI", "VMDK", "VHD"),
    "kind": ("normal", "immutable", "multiattach", "writethrough", "shareable"),
    "firmware": ("bios", "efi"),
    "group": ("", "/office/second floor"),
    "name": ("plain", "a b (c)", "a: b", LONG),
    "description": ("", "short & <odd>", "né <&>\n" * 2000),
    "medium": ("", "iso", "usb iso"),
    "serial": ("", "file", "server"),
    "teleporter": (False, True),
    "snapshots": (0, 1, 2),
    "linked": (False, True),
    "state": (
        *("poweroff", "saved", "aborted", "running", "paused"),
        *("memory gone", "disk gone", "encrypted"),
    ),
    "running": ("savestate", "live"),
    "engine": ("auto", "vboxmanage"),
}
assert list(AXES) == [field.name for field in fields(Cell)]


def possible(cell: Cell) -> bool:
    """Whether VirtualBox can make such a VM, and it is another one than its neighbours."""
    fixed = cell.kind in ("multiattach", "immutable", "shareable") and cell.format != "VDI"
    booted = cell.runs or cell.saved or cell.state == "aborted"
    plain = cell.kind == "normal" and cell.format == "VDI" and not cell.snapshots
    return not (
        fixed
        or (cell.firmware == "efi" and booted)  # the tiny guest boots by BIOS
        or (cell.serial and booted)  # its serial line is its own
        or (cell.teleporter and booted)  # it would wait for the guest of another VM
        or (cell.running == "live" and not cell.runs)
        or (cell.linked and cell.kind != "normal")  # its original would have the same disk
        or (cell.state == "encrypted" and (cell.linked or not plain))
    )


def size() -> int:
    """How many cells the whole product has."""
    return prod(map(len, AXES.values()))


def drawn(seed: int) -> Iterator[Cell]:
    """Cells without end. Every value of each axis comes up before one comes up again."""
    chance = random.Random(seed)
    decks = {name: _shuffled(chance, values) for name, values in AXES.items()}
    for _ in itertools.count():
        cell = Cell(**{name: next(deck) for name, deck in decks.items()})  # type: ignore[arg-type]
        if possible(cell):
            yield cell


def _shuffled(chance: random.Random, values: tuple[object, ...]) -> Iterator[object]:
    while True:
        yield from chance.sample(values, len(values))
