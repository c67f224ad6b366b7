"""The operations on the history of the database, one value each, like those of the protocol.

`shared.state.store.history_files` performs them on a real NAS, the model checker on a simulated
one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.state.store.bundle import BundleName
from shared.state.store.operations import Operation

if TYPE_CHECKING:
    from shared.state.store.state_files import StateFiles


@dataclass(frozen=True, slots=True)
class ListHistoric(Operation[tuple[int, ...]]):
    """The oldest generations in the history that are in files of their own: so many at most."""

    count: int

    def perform(self, files: "StateFiles") -> tuple[int, ...]:
        return files.history.oldest(self.count)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """There is something with the name of a generation, and `why` it cannot be read.

    `by_this_user`: another one may be able to.
    """

    why: str
    by_this_user: bool = False


@dataclass(frozen=True, slots=True)
class ReadHistoric(Operation[bytes | Unreadable | None]):
    """The bytes of a generation in the history that is in a file of its own, or None."""

    number: int

    def perform(self, files: "StateFiles") -> bytes | Unreadable | None:
        return files.history.read(self.number)


@dataclass(frozen=True, slots=True)
class ReadChecksum(Operation[str]):
    """The checksum of a generation, wherever it is kept; empty if that cannot be told."""

    number: int

    def perform(self, files: "StateFiles") -> str:
        return files.history.checksum(self.number)


@dataclass(frozen=True, slots=True)
class ListBundles(Operation[tuple[BundleName, ...]]):
    """The bundles of the history, oldest first. The listing may be stale."""

    def perform(self, files: "StateFiles") -> tuple[BundleName, ...]:
        return files.history.bundles()


@dataclass(frozen=True, slots=True)
class PutBundle(Operation[None]):
    """Writes a bundle to the disk under a private name, and gives it its own."""

    name: BundleName
    data: bytes

    def perform(self, files: "StateFiles") -> None:
        files.history.put_bundle(self.name, self.data)


@dataclass(frozen=True, slots=True)
class SyncBundle(Operation[bytes | None]):
    """Brings a bundle and its name to the disk of the NAS, and gives what can be read there.

    None if there is no such name.
    """

    name: BundleName

    def perform(self, files: "StateFiles") -> bytes | None:
        return files.history.sync_bundle(self.name)


@dataclass(frozen=True, slots=True)
class RemoveHistoric(Operation[None]):
    """Removes the file of a generation in the history."""

    number: int

    def perform(self, files: "StateFiles") -> None:
        files.history.remove(self.number)


@dataclass(frozen=True, slots=True)
class SetHistoricAside(Operation[None]):
    """Moves the file of a generation in the history to the private files."""

    number: int

    def perform(self, files: "StateFiles") -> None:
        files.history.set_aside(self.number)


@dataclass(frozen=True, slots=True)
class KeepUnreadable(Operation[None]):
    """Moves what cannot be read and has the name of a generation to `damaged/`, for good."""

    number: int

    def perform(self, files: "StateFiles") -> None:
        files.history.keep_unreadable(self.number)


@dataclass(frozen=True, slots=True)
class PutAnchor(Operation[None]):
    """Brings to the disk where the chain begins: the number of the last generation that goes."""

    number: int
    data: bytes

    def perform(self, files: "StateFiles") -> None:
        files.history.put_anchor(self.number, self.data)


@dataclass(frozen=True, slots=True)
class RemoveBundle(Operation[None]):
    """Removes a bundle."""

    name: BundleName

    def perform(self, files: "StateFiles") -> None:
        files.history.remove_bundle(self.name)
