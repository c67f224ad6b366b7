"""How far the disks of a VM are filled that runs from its copy."""

import contextlib
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from shared.copies.space_needed import human
from shared.host.duration import spoken
from shared.host.errors import VmBackupError
from shared.host.host_lock import is_held
from shared.host.printable import option, printable, quoted
from shared.ova.vdi_writing import BLOCK
from shared.state.sessions.host_look import Stuck
from shared.tasks import boot_mounts, boot_note
from shared.tasks.boot_note import BootNote, Phase

#: What is said of one whose disks need no server, and that is no ordinary VM yet.
UNMERGED: Final = "but what its guest wrote is in a snapshot that is not merged yet"
#: A server says every second that it is there.
_OLD_SECONDS: Final = 30.0
#: One of which nothing is heard for so long does not just wait for a slow disk.
_SILENT_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes, and bytes a second. `problem` says why it does not get on.

    For `short` bytes there is no room. `unread` says why VirtualBox has paused the VM, which asked
    for what could not be read. `age`: how many seconds ago its server has said so; a rate
    is only what was said just now. `busy`: nothing serves it, and a process makes it, goes on
    with it, or ends it. `placed`: its disks have their names, and need no server.
    """

    name: str
    vm: str
    filled: int
    total: int
    rate: float
    short: int
    problem: str
    unread: str
    served: bool
    whole: bool
    age: float
    busy: bool = False
    placed: bool = False

    @property
    def seconds_left(self) -> float | None:
        """How long it takes from here, at the present rate; None if that cannot be said."""
        if self.whole or self.short or not self.rate:
            return None
        return (self.total - self.filled) / self.rate

    @property
    def words(self) -> str:
        """All of it for people."""
        said = "filled" if self.whole else f"{human(self.filled)} of {human(self.total)} filled"
        if self.busy:
            said += ", and being worked on"
        elif self.placed:
            again = f"`vmbackup-admin boot {option('--finish', self.name)}`"
            said += f", {UNMERGED}: {again} goes on when it is off"
        elif not self.served:
            again = f"`vmbackup-admin boot {option('--finish', self.name)}`"
            said += f", not served: {again}" if self.whole else f", and not served: {again} goes on"
        elif self.age > _OLD_SECONDS and not self.whole:
            said += f" {spoken(self.age)} ago, when its server was last heard of"
        elif self.rate:
            said += f", {human(int(self.rate))}/s"
            left = self.seconds_left
            said += "" if left is None else f", {spoken(left)} left"
        if self.short:
            said += f"; no room for {human(self.short)} of it"
        if self.problem:
            said += f"; {self.problem}"
        if self.unread:
            said += f"; {self.paused}"
        return said

    @property
    def paused(self) -> str:
        """That its guest waits, why, and what to do; empty if it got all that it asked for."""
        if not self.unread:
            return ""
        return (
            f"paused by VirtualBox, as its guest asked for what could not be read ({self.unread}): "
            f"when it can be, `{going_on(self.name, self.vm)}` goes on"
        )

    @property
    def stuck(self) -> Stuck | None:
        """Why it does not get on, if it needs a person or will not be filled; None if it does."""
        if self.busy:
            return None
        if self.placed:
            return Stuck("unmerged", self.problem)
        if not self.served:
            return Stuck("unserved", self.problem)
        if self.problem and self.age > _SILENT_SECONDS and not self.whole:
            return Stuck("problem", self.problem)  # what else it has said was so before
        found = (("unread", self.unread), ("room", self.short and human(self.short)))
        why = next((why for why in (*found, ("problem", self.problem)) if why[1]), None)
        return Stuck(why[0], str(why[1])) if why else None


def going_on(name: str, vm: str) -> str:
    """The command that goes on with the VM `name`, which runs from a copy of `vm`."""
    renamed = f" {option('--as', name)}" if name != vm else ""
    return f"vmbackup-admin boot {quoted(vm)}{renamed}"


def progress(note: BootNote) -> Progress:
    """How far it is, as its server has said last. Asks neither server nor NAS.

    Raises `ConfigurationError`.
    """
    moved = boot_mounts.moved_to(note)
    note = replace(note, folder=moved or note.folder)
    said, server, age = note.progress.read(), note.server, _age(note.progress.path)
    filled, total, rate, short = (
        value if isinstance(value := said.get(name), int | float) and value > 0 else 0
        for name in ("filled", "total", "rate", "short")
    )
    served = boot_mounts.is_mounted(note) and (server is None or server.is_alive())
    problem = str(said.get("problem") or "")
    placed = note.phase == Phase.PLACED
    whole = placed or note.is_whole
    silent = served and not whole and moved is None  # one that was moved cannot say it there
    return Progress(
        *(note.name, note.key, int(filled), int(total)),
        rate=float(rate) if served and not problem and age <= _OLD_SECONDS else 0.0,
        short=int(short),
        problem=_unheard(note, age, silent=silent) or problem,
        unread=str(said.get("unread") or "") if served else "",
        served=served,
        whole=whole,
        age=age,
        busy=not served and is_held(note.file.parent, note.file.stem),
        placed=placed and not served,
    )


def _age(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


def _unheard(note: BootNote, age: float, *, silent: bool) -> str:
    """Why nothing is heard of the server: it cannot write, or, if it may be `silent`, it hangs."""
    with contextlib.suppress(OSError):
        if age > _OLD_SECONDS and shutil.disk_usage(note.filling).free < BLOCK:
            return f"no room: nothing is free in {note.filling}"
    server = note.server
    if age <= _SILENT_SECONDS or not silent or server is None:
        return ""
    return (
        f"nothing is heard of its server, process {server.pid}: if it was stopped, "
        f"`kill -CONT {server.pid}` lets it go on; if it hangs, `kill -KILL {server.pid}` ends it"
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """A VM of this host that runs from a copy, for people and for programs."""

    line: str
    document: dict[str, Any]


def shown(state_directory: Path) -> list[Shown]:
    """What runs from copies on this host; nothing where another user may not see that."""
    found = []
    for note in boot_note.all_of(state_directory):
        with contextlib.suppress(VmBackupError, OSError):
            found.append(_shown(note))
    return found


def stuck_here(state_directory: Path) -> dict[str, Stuck | None]:
    """What runs from copies on this host, by name, and why it does not get on; None if it does.

    Nothing where another user may not see that.
    """
    found: dict[str, Stuck | None] = {}
    for note in boot_note.all_of(state_directory):
        with contextlib.suppress(VmBackupError, OSError):
            found[note.name] = progress(note).stuck
    return found


def _shown(note: BootNote) -> Shown:
    found = progress(note)
    line = f"{printable(note.name)} runs from {note.stamp} of {printable(note.key)}: {found.words}"
    facts = {"name": note.name, "uuid": note.uuid, "vm": note.key, "stamp": note.stamp}
    facts |= {"folder": str(note.folder), "since": note.since}
    how: dict[str, Any] = {"filled": found.filled, "total": found.total, "rate": found.rate}
    how |= {"seconds_left": found.seconds_left, "problem": found.problem}
    how |= {"short": found.short, "unread": found.unread, "busy": found.busy}
    how |= {"placed": found.placed}
    return Shown(line, {**facts, **how, "served": found.served, "whole": found.whole})
