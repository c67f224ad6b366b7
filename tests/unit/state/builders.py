"""Records with little in them, hosts that are not there, and a clock that only moves when it is
told to.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.host.host_identity import HostIdentity
from shared.state.contents import Contents
from shared.state.host_records import SessionRecord
from shared.state.records import Claim, CopyRecord, VmRecord
from shared.state.states import State
from shared.state.store.create import genesis
from shared.state.store.layout import Primitive
from shared.state.store.operations import PublishGeneration, RemoveTemporary, WriteTemporary
from shared.state.store.state_files import StateFiles

WHEN = "2026-11-22T20:38:00Z"
LATER = "2026-11-22T21:38:00Z"
REPOSITORY = "0f0e0d0c-0b0a-4908-8706-050403020100"
HERE = HostIdentity("alpha", "alpha", "machine-alpha", "boot", "space")


@dataclass
class StillClock:
    """A clock of a test's own. Sleeping moves it."""

    seconds: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 20, 38, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds

    boottime = monotonic

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def jitter(self, limit: float) -> float:
        return limit


class BusyClock(StillClock):
    """While its owner sleeps, something else happens."""

    def __init__(self, happens: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self.happens = happens

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.happens(len(self.slept))


def vm(key: str, status: State = State.CLEAN, **values: Any) -> VmRecord:
    """A record."""
    settings = {
        "name": key,
        "uuid": f"uuid-{key}",
        "node": "alpha",
        "directory": key,
        "found": WHEN,
        **values,
    }
    return VmRecord(key=key, status=status, **settings)


def copy(claim: int = 1) -> CopyRecord:
    """A copy that was made under this claim."""
    return CopyRecord(f"20261122T203800Z-{claim}", claim, 10, "0" * 64, WHEN, {"disk": "1"})


def session(identifier: str, state: Any = "live", **values: Any) -> SessionRecord:
    """A session's row."""
    return SessionRecord(
        identifier,
        values.pop("sequence", 1),
        values.pop("generation", 1),
        state,
        values.pop("node", "alpha"),
        **values,
    )


def contents(
    *records: VmRecord, sessions: tuple[SessionRecord, ...] = (), granted: int = 0
) -> Contents:
    """A database."""
    rows = {row.id: row for row in sessions}
    return Contents(granted, {}, rows, {record.key: record for record in records})


def claimed(
    key: str = "web01", number: int = 1, by: str = "alpha.1", purpose: Any = "backup", **values: Any
) -> VmRecord:
    """A VM that is being backed up."""
    return vm(
        key, State.BACKUP_IN_PROGRESS, **{"claim": Claim(by, number, purpose, WHEN), **values}
    )


def state_files(
    root: Path, primitive: Primitive = "link", clock: StillClock | None = None
) -> StateFiles:
    """A new state database in a real directory."""
    for name in ("", "gen", "tmp", "history", "node"):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o770)  # what is made there follows it
    files = StateFiles(root, clock or StillClock(), primitive)
    data = genesis(REPOSITORY, "alpha", WHEN)
    for operation in (
        WriteTemporary("genesis", data),
        PublishGeneration("genesis", 1),
        RemoveTemporary("genesis"),
    ):
        files.perform(operation)
    return files


#: The claim that `claimed` VMs are held under.
OWN = Claim("alpha.1", 1, "backup", WHEN)


def only(database: Contents, key: str = "web01") -> VmRecord:
    """The record of `key`."""
    return database.vms[key]
