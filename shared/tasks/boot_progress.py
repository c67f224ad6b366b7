"""How far the disks of a VM are filled that runs from its copy."""

import contextlib
import shutil
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from shared.copies.space_needed import human
from shared.host.clock import timestamp
from shared.host.duration import spoken
from shared.host.host_lock import is_held
from shared.host.printable import quoted
from shared.host.process_identity import is_stopped
from shared.ova.vdi_writing import BLOCK
from shared.state.sessions.host_look import LONGEST_WHY, Stuck
from shared.tasks import boot_machine, boot_mounts, boot_remedies
from shared.tasks.boot_note import BootNote, Phase
from shared.tasks.boot_remedies import UNMERGED

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
    with it, or ends it. `placed`: its disks have their names, and need no server. `unlisted`: its
    user has deleted it. `on`: it runs, where that matters. `pid`: its server, of which
    nothing is heard for long (0: it is); `stopped` says that it was. `heard`: when it was heard of
    last, if it is gone. `settings_left`: by which VirtualBox would take it in again.
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
    uuid: str = ""
    unlisted: bool = False
    settings_left: Path | None = None
    on: bool = False
    stopped: bool = False
    pid: int = 0
    heard: str = ""

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
        elif self.unlisted:
            said += f"; {boot_remedies.words(Stuck('unlisted', self._way_back))}: `{self.remedy}`"
        elif self.placed:
            waits = "waits for its end" if self.on else "goes on when it is off"
            said += f", {UNMERGED}: `{self.remedy}` {waits}"
        elif not self.served:
            said += ", " if self.whole else ", and "
            said += "not served, though it is on: " if self.on else "not served: "
            said += f"`{self.remedy}`" + ("" if self.whole else " goes on")
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
            f"when it can be, `{boot_remedies.going_on(self.name, self.vm)}` goes on"
        )

    @property
    def stuck(self) -> Stuck | None:
        """Why it does not get on, if it needs a person or will not be filled; None if it does."""
        if self.busy or self.unlisted:
            return None if self.busy else Stuck("unlisted", self._way_back)
        on = "_on" if self.on else ""
        if self.placed:
            return Stuck(f"unmerged{on}", self.problem)
        if not self.served:
            heard = f"its server was last heard of {self.heard}" if self.heard else ""
            return Stuck(f"unserved{on}", self.problem or heard)
        if self.pid:  # what else it has said was so before
            return Stuck("stopped" if self.stopped else f"silent{on}", self.problem, self.pid)
        if self.problem and self.age > _SILENT_SECONDS and not self.whole:
            return Stuck("problem", self.problem)
        found = (("unread", self.unread), ("room", self.short and human(self.short)))
        why = next((why for why in (*found, ("problem", self.problem)) if why[1]), None)
        return Stuck(why[0], str(why[1])) if why else None

    @property
    def remedy(self) -> str:
        """What helps, in the state that it is in; empty if it gets on."""
        stuck = self.stuck
        return boot_remedies.remedy(stuck, self.name, self.uuid, self.vm) if stuck else ""

    @property
    def _way_back(self) -> str:
        """How VirtualBox takes it in again; empty if it cannot, or that is too long to be told."""
        said = f"VBoxManage registervm {quoted(str(self.settings_left))} takes it in again"
        return said if self.settings_left and len(said) <= LONGEST_WHY else ""


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
    no_room = _no_room(note, age)
    # one that was moved cannot say it there
    may_be_silent = served and not whole and moved is None and not no_room
    pid = server.pid if server is not None and may_be_silent and age > _SILENT_SECONDS else 0
    stopped = bool(pid) and is_stopped(pid)
    busy = not served and is_held(note.file.parent, note.file.stem)
    matters = not busy and (bool(pid) or not served)
    return Progress(
        *(note.name, note.key, int(filled), int(total)),
        rate=float(rate) if served and not problem and age <= _OLD_SECONDS else 0.0,
        short=int(short),
        problem=no_room or (_unheard(pid, stopped=stopped) if pid else problem),
        unread=str(said.get("unread") or "") if served else "",
        served=served,
        whole=whole,
        age=age,
        busy=busy,
        placed=placed and not served,
        uuid=note.uuid,
        unlisted=boot_machine.is_unlisted(note),
        settings_left=boot_machine.settings_left(note),
        on=matters and boot_machine.is_on(note),
        stopped=stopped,
        pid=pid,
        heard="" if served else _heard(note.progress.path),
    )


def _age(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


def _heard(path: Path) -> str:
    with contextlib.suppress(OSError):
        return timestamp(datetime.fromtimestamp(path.stat().st_mtime, UTC))
    return ""


def _no_room(note: BootNote, age: float) -> str:
    """Why nothing is heard of the server, if it cannot write where it says how far it is."""
    with contextlib.suppress(OSError):
        if age > _OLD_SECONDS and shutil.disk_usage(note.filling).free < BLOCK:
            return f"no room: nothing is free in {note.filling}"
    return ""


def _unheard(pid: int, *, stopped: bool) -> str:
    """That nothing is heard of the server, and what to do."""
    goes_on = f"`kill -CONT {pid}` lets it go on"
    said = f"nothing is heard of its server, process {pid}"
    if stopped:
        return f"{said}, which was stopped: {goes_on}"
    return f"{said}: if it was stopped, {goes_on}; if it hangs, `kill -KILL {pid}` ends it"
