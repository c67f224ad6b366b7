"""The file operations of the commit protocol, one value each.

The protocol yields them; `shared.state.store.state_files` performs them on a real NAS, the model
checker on a simulated one. Each value knows the type of its result:

    numbers = yield from ListGenerations()  # tuple[int, ...]
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from shared.state.store.state_files import StateFiles

T = TypeVar("T")
Result_co = TypeVar("Result_co", covariant=True)


class Operation(Generic[Result_co]):
    """One operation on the files of the database, which gives a `Result_co`."""

    __slots__ = ()

    def __iter__(self) -> "Steps[Result_co]":
        """One step of the protocol: `yield from` the operation gives its result."""
        return cast("Result_co", (yield self))  # whoever drives the steps sends its result

    def perform(self, files: "StateFiles") -> Result_co:
        """Performs the operation on a real NAS. Raises OSError."""
        raise NotImplementedError


#: A piece of the protocol: yields operations, receives their results, returns a result of its own.
Steps = Generator[Operation[object], object, T]


@dataclass(frozen=True, slots=True)
class ListGenerations(Operation[tuple[int, ...]]):
    """The numbers present in `gen/`, in any order. The listing may be stale."""

    def perform(self, files: "StateFiles") -> tuple[int, ...]:
        return files.list_generations()


@dataclass(frozen=True, slots=True)
class ReadGeneration(Operation[bytes | None]):
    """The bytes of a generation, or None if there is no such name (which may be stale, too)."""

    number: int

    def perform(self, files: "StateFiles") -> bytes | None:
        return files.read_generation(self.number)


@dataclass(frozen=True, slots=True)
class WriteTemporary(Operation[None]):
    """Creates a private file with these bytes, exclusively, and flushes it to the disk."""

    name: str
    data: bytes

    def perform(self, files: "StateFiles") -> None:
        files.write_temporary(self.name, self.data)


@dataclass(frozen=True, slots=True)
class PublishGeneration(Operation[None]):
    """Gives a private file the name of a generation, unless that name exists.

    Without a result: whatever the NAS says is not believed.
    """

    name: str
    number: int

    def perform(self, files: "StateFiles") -> None:
        files.publish_generation(self.name, self.number)


@dataclass(frozen=True, slots=True)
class SyncGeneration(Operation[bytes | None]):
    """Flushes a generation and its name to the disk of the NAS.

    Gives the bytes that were flushed; None if there is no such name.
    """

    number: int

    def perform(self, files: "StateFiles") -> bytes | None:
        return files.sync_generation(self.number)


@dataclass(frozen=True, slots=True)
class RemoveTemporary(Operation[None]):
    """Removes a private file."""

    name: str

    def perform(self, files: "StateFiles") -> None:
        files.remove_temporary(self.name)


@dataclass(frozen=True, slots=True)
class ReadView(Operation[bytes | None]):
    """The bytes of `vmtool-statedb`, or None. They may be stale."""

    def perform(self, files: "StateFiles") -> bytes | None:
        return files.read_view()


@dataclass(frozen=True, slots=True)
class ReplaceView(Operation[None]):
    """Renames a private file over `vmtool-statedb`."""

    name: str

    def perform(self, files: "StateFiles") -> None:
        files.replace_view(self.name)


@dataclass(frozen=True, slots=True)
class KeepEditedView(Operation[None]):
    """Keeps what somebody wrote into `vmtool-statedb` in a file of its own.

    Its name has the generation with which the edit was compared.
    """

    generation: int
    data: bytes

    def perform(self, files: "StateFiles") -> None:
        files.keep_edited_view(self.generation, self.data)


@dataclass(frozen=True, slots=True)
class MoveToHistory(Operation[None]):
    """Moves a generation out of `gen/` into the history; never over another one."""

    number: int

    def perform(self, files: "StateFiles") -> None:
        files.history.move_in(self.number)


@dataclass(frozen=True, slots=True)
class ReadLease(Operation[tuple[bytes, int] | None]):
    """The bytes and the modification time (ns) of the lease marker `vmtool-dblock`, or None."""

    def perform(self, files: "StateFiles") -> tuple[bytes, int] | None:
        return files.lease_marker.read()


@dataclass(frozen=True, slots=True)
class TakeLeaseAside(Operation[None]):
    """Renames the lease marker to a private name.

    Without a result: whatever the NAS says is not believed.
    """

    name: str

    def perform(self, files: "StateFiles") -> None:
        files.lease_marker.take_aside(files.temporary(self.name))


@dataclass(frozen=True, slots=True)
class ReadTemporary(Operation[bytes | None]):
    """The bytes of a private file, or None."""

    name: str

    def perform(self, files: "StateFiles") -> bytes | None:
        return files.read_temporary(self.name)


@dataclass(frozen=True, slots=True)
class PutLeaseBack(Operation[None]):
    """Gives a private file the name of the lease marker again, unless there is a new one."""

    name: str

    def perform(self, files: "StateFiles") -> None:
        files.lease_marker.put_back(files.temporary(self.name))


@dataclass(frozen=True, slots=True)
class Wait(Operation[float]):
    """Waits before trying again: longer with each attempt, with jitter. Gives the seconds."""

    attempt: int

    def perform(self, files: "StateFiles") -> float:
        return files.wait(self.attempt)
