"""The file operations of the commit protocol, one value each.

The protocol yields them; `shared.state.store.files` performs them on a real NAS, the model checker
on a simulated one.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListGenerations:
    """Answers the numbers present in `gen/`, in any order. The answer may be stale."""


@dataclass(frozen=True, slots=True)
class ReadGeneration:
    """Answers the bytes of a generation, or None if there is no such name (which may be stale, too)."""

    number: int


@dataclass(frozen=True, slots=True)
class WriteTemporary:
    """Creates a private file with these bytes, exclusively, and brings it to the disk."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class PublishGeneration:
    """Gives a private file the name of a generation, unless that name exists.

    Answers None: whatever the NAS says is not believed.
    """

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class SyncGeneration:
    """Brings what has the name of a generation to the disk of the NAS, and answers its bytes then; None if there is no such name."""

    number: int


@dataclass(frozen=True, slots=True)
class RemoveTemporary:
    """Removes a private file."""

    name: str


@dataclass(frozen=True, slots=True)
class ReadView:
    """Answers the bytes of `vmtool-statedb`, or None. The answer may be stale."""


@dataclass(frozen=True, slots=True)
class ReplaceView:
    """Renames a private file over `vmtool-statedb`."""

    name: str


@dataclass(frozen=True, slots=True)
class KeepEditedView:
    """Writes what somebody put into `vmtool-statedb` beside it, under the name of the generation that it is set against."""

    generation: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MoveToHistory:
    """Moves a generation out of `gen/` into the history; never over another one."""

    number: int


@dataclass(frozen=True, slots=True)
class ReadLease:
    """Answers the bytes and the modification time (ns) of the lease marker `vmtool-dblock`, or None if there is none."""


@dataclass(frozen=True, slots=True)
class TakeLeaseAside:
    """Renames the lease marker to a private name.

    Answers None: whatever the NAS says is not believed.
    """

    name: str


@dataclass(frozen=True, slots=True)
class ReadTemporary:
    """Answers the bytes of a private file, or None."""

    name: str


@dataclass(frozen=True, slots=True)
class PutLeaseBack:
    """Gives a private file the name of the lease marker again, unless somebody has made a new one."""

    name: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Waits before trying again: longer with each attempt, with jitter."""

    attempt: int


Operation = (
    ListGenerations
    | ReadGeneration
    | WriteTemporary
    | PublishGeneration
    | SyncGeneration
    | RemoveTemporary
    | ReadView
    | ReplaceView
    | KeepEditedView
    | MoveToHistory
    | ReadLease
    | TakeLeaseAside
    | ReadTemporary
    | PutLeaseBack
    | Wait
)

#: A piece of the protocol: yields operations, receives their answers, returns a result.
Steps = Generator[Operation, Any, T]
