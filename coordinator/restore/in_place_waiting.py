"""The VMs of this host that were taken back in place, and whose disks of before still wait."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator import text
from shared.host.errors import ConfigurationError
from shared.host.printable import printable, quoted
from shared.tasks import disk_swap, swap_note
from shared.tasks.swap_note import Swap


@dataclass(frozen=True, slots=True)
class Waiting:
    """One of them, in words: how it is, and what to do about it. `document` is for programs."""

    words: str
    remedy: str
    document: Mapping[str, Any]

    @property
    def line(self) -> str:
        """All of it for people."""
        return f"{self.words}; {self.remedy}"


def found(state_directory: Path, keys: Mapping[str, str]) -> list[Waiting]:
    """What is noted on this host; nothing where another user may not see that.

    `keys`: what the VMs are called in the database, by UUID; one that is not there is named by its
    UUID, which each command takes as well. Asks neither NAS nor VirtualBox.
    """
    waiting = []
    for note in swap_note.noted(state_directory):
        try:
            swap = note.read()
        except ConfigurationError as error:
            if os.access(note.path, os.R_OK):
                waiting.append(_unreadable(error))
            continue
        if swap is not None:
            vm = keys.get(swap.uuid, swap.uuid)
            over = swap.done and not swap.undoing
            waiting.append(_done(swap, vm) if over else _under_way(swap, vm))
    return waiting


def _done(swap: Swap, vm: str) -> Waiting:
    old = disk_swap.left_of_old(swap)
    size = sum(map(_taken, old))
    kept = f"its disks of before take {text.size(size)}" if old else "its disks of before are gone"
    return Waiting(
        f"{printable(swap.name)} was taken back to {swap.stamp} at {swap.done}, and {kept}",
        f"when it is as it shall be: `vmbackup-admin restore --into --finish {quoted(vm)}`"
        + (" removes them; if it shall have them again: --undo" if old else ""),
        {**_facts(swap, vm), "disks": list(old), "size": size},
    )


def _under_way(swap: Swap, vm: str) -> Waiting:
    what = f"taken back to {swap.stamp}"
    if swap.undoing:
        what = f"given its disks of before {swap.stamp} again"
    return Waiting(
        f"{printable(swap.name)} is being {what}, or that was broken off",
        "if nobody does it now, the next database worker of this host settles it",
        {**_facts(swap, vm), "disks": [], "size": 0},
    )


def _unreadable(error: ConfigurationError) -> Waiting:
    unknown: dict[str, Any] = dict.fromkeys(("vm", "name", "uuid", "stamp", "done"))
    document = {**unknown, "disks": [], "size": 0, "problem": error.message}
    return Waiting(error.message, error.hint, document)


def _facts(swap: Swap, vm: str) -> dict[str, Any]:
    facts = {"vm": vm, "name": swap.name, "uuid": swap.uuid, "stamp": swap.stamp}
    return {**facts, "done": swap.done or None, "problem": ""}


def _taken(path: str) -> int:
    """How many bytes of its file system a file takes; 0 if nobody can say."""
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0
