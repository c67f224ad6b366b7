"""What a simulated host knows.

Machines and media in one JSON file, replaced as a whole under a lock.
"""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

#: VBoxSVC ends this long after its last client; what it knew and had not written down is gone then.
SERVICE_SECONDS = 5.2
RUNNING_STATES = ("running", "paused")


@dataclass
class Snapshot:
    """`disks` and `state_file` are those of the machine at that moment."""

    uuid: str
    name: str
    parent: str
    taken: float
    description: str = ""
    state_file: str = ""
    disks: dict[str, str] = field(default_factory=dict)


@dataclass
class Machine:
    """`changed` is what VBoxSVC knows, `written_*` what the .vbox file says.

    A file rewritten before a change keeps the older time.
    """

    uuid: str
    name: str
    settings: str
    changed: float
    written_changed: int = 0
    written_aborted: bool = False
    state: str = "poweroff"
    state_file: str = ""
    description: str = ""
    memory: int = 128
    extra_data: dict[str, str] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    controllers: dict[str, int] = field(default_factory=dict)  # name -> ports
    kinds: dict[str, str] = field(default_factory=dict)  # name -> as --controller has it
    disks: dict[str, str] = field(default_factory=dict)  # "SATA-0-0" -> uuid of the medium
    drives: dict[str, str] = field(default_factory=dict)  # "IDE-1-0" -> its image; "": empty
    snapshots: list[Snapshot] = field(default_factory=list)
    current_snapshot: str = ""
    started: float = 0.0  # when the guest began to count
    counted: int = 0  # what it had counted to by then
    button_delay: float | None = (
        0.0  # seconds from the power button to power off; None: the guest ignores it
    )
    ends: float | None = None  # when the guest will have shut down

    @property
    def folder(self) -> str:
        return os.path.dirname(self.settings)

    @property
    def runs(self) -> bool:
        return self.state in RUNNING_STATES

    def settle(self) -> None:
        """What a VBoxSVC that has just started reads from the settings file."""
        self.changed = float(self.written_changed)
        self.state = (
            "saved" if self.state_file else "aborted" if self.written_aborted else "poweroff"
        )
        self.ends = None


@dataclass
class Medium:
    """A hard disk image. `registry` is the machine whose .vbox lists it."""

    uuid: str
    location: str
    mib: int
    format: str = "VDI"
    parent: str = ""
    registry: str = ""
    kind: str = "Normal"


class Host:
    """The state of one host. `home` is its VBOX_USER_HOME."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.machines: dict[str, Machine] = {}
        self.media: dict[str, Medium] = {}

    @property
    def path(self) -> str:
        return os.path.join(self.home, "simulated.json")

    @property
    def machine_folder(self) -> str:
        return os.path.join(os.path.dirname(self.home), "vms")

    def load(self) -> None:
        try:
            with open(self.path, encoding="utf-8") as file:
                data = json.load(file)
        except FileNotFoundError:
            return
        for entry in data["machines"]:
            entry["snapshots"] = [Snapshot(**snapshot) for snapshot in entry["snapshots"]]
        self.machines = {entry["uuid"]: Machine(**entry) for entry in data["machines"]}
        self.media = {entry["uuid"]: Medium(**entry) for entry in data["media"]}

    def save(self) -> None:
        data = {"machines": list(self.machines.values()), "media": list(self.media.values())}
        temporary = f"{self.path}.new"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(data, default=vars))
        os.replace(temporary, self.path)

    def chain(self, uuid: str) -> list[Medium]:
        """The medium and all below it, down to the base."""
        found = [self.media[uuid]]
        while found[-1].parent:
            found.append(self.media[found[-1].parent])
        return found

    def readers(self) -> set[str]:
        """Media that running exports read."""
        return {uuid for export in exports(self.home) for uuid in export["media"]}

    def children(self, uuid: str) -> list[Medium]:
        return [medium for medium in self.media.values() if medium.parent == uuid]


def exports(home: str) -> list[dict[str, Any]]:
    """The exports that run now.

    Each service process holds a lock on its file for as long as it lives.
    """
    folder = os.path.join(home, "exports")
    found = []
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        try:
            descriptor = os.open(os.path.join(folder, name), os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(os.path.join(folder, name))
        except BlockingIOError:
            found.append(json.loads(os.read(descriptor, 1 << 20)))
        finally:
            os.close(descriptor)
    return found


def reading(home: str, media: list[str], target: str) -> AbstractContextManager[str]:
    """Shows to others that this process reads these media, from now on and until the end of the
    `with` statement or of the process.

    Answers the record's path. Called under the lock of the state.
    """
    folder = os.path.join(home, "exports")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{uuid.uuid4()}.json")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(
        descriptor, json.dumps({"pid": os.getpid(), "media": media, "target": target}).encode()
    )

    @contextmanager
    def record() -> Iterator[str]:
        try:
            yield path
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.close(descriptor)

    return record()


@contextmanager
def opened(home: str, *, changes: bool) -> Iterator[Host]:
    """The state under its lock, brought up to now.

    Written back if the caller `changes` it or time has, also after an error.
    """
    from tests.support.simulated import power

    lock = os.open(
        os.path.join(home, "simulated.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        host = Host(home)
        host.load()
        idle = time.time() - os.fstat(lock).st_mtime
        changed = power.advance(host, service_gone=idle > SERVICE_SECONDS)
        try:
            yield host
        finally:
            if changes or changed:
                host.save()
            os.utime(lock)
    finally:
        os.close(lock)
