"""The state database's door to the NAS: performs the operations of the protocol on real files.

Generations, view and lease marker are written by nothing else. What is known of NFS and SMB clients
decides how each operation is done (see docs/nas.md): a directory is opened before it is listed,
because that revalidates the client's cache of names; files are opened and read, never only looked
at; a read that meets a stale handle is tried again.
"""

import contextlib
import errno
import os
import secrets
import stat
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

from shared.host.clock import Clock
from shared.host.waits import waiting
from shared.nas.nas_errors import FlushError, is_full, nas_error
from shared.nas.reading import LIMIT_BYTES, list_fresh, read_file
from shared.nas.waiting import AS_ITS_MOUNT, PATIENCE_SECONDS, Bounded, patiently
from shared.nas.writing import make_directory, sync_directory, sync_name, write_new_file
from shared.state.store.history_files import HistoryFiles
from shared.state.store.layout import Primitive, generation_name, generation_numbers
from shared.state.store.lease_marker import LeaseMarker
from shared.state.store.operations import Operation, Steps

T = TypeVar("T")

#: A generation is not published from a head that was read longer ago than this: its slot may have
#: been pruned since.
_HEAD_AGE_LIMIT_SECONDS: Final = 600
#: Longer than the view of a hundred thousand VMs.
_VIEW_BYTES: Final = 1 << 24


class StateFiles:
    """`vmstate/` on a NAS.

    `primitive` is how a generation gets its name: a hard link, or a directory renamed into place.
    `view_seconds`: how long `vmtool-statedb` is waited for.
    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        primitive: Primitive = "link",
        *,
        view_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.root = root
        self.primitive = primitive
        self.history = HistoryFiles(root, primitive)
        self.lease_marker = LeaseMarker(root)
        self._clock = clock
        self._private = secrets.token_hex(6)
        self._serial = count(1)
        #: Where each private file that was written lies: a name that is used again gets a new file,
        #: because a request that works on the old one may still be on its way to the server.
        self._written: dict[str, Path] = {}
        #: Generations that the disk did not take when they were flushed.
        self._lost: set[int] = set()
        self._listed_at = clock.boottime()
        #: The one file that all hosts replace: opening it was seen to hang on SMB (docs/nas.md),
        #: and nothing depends on it.
        self._view = Bounded("vmtool-statedb", view_seconds)
        self._began: float | None = None
        #: The last publication for whose name there was no room, by its private name.
        self._no_room: tuple[str, OSError] | None = None
        #: Operations performed, by name: what the benchmark counts.
        self.counts: dict[str, int] = {}

    def run(self, steps: Steps[T]) -> T:
        """Drives a piece of the protocol to its result.

        Raises `NasError` when the NAS refuses an operation that must work.
        """
        with waiting(f"the NAS to answer ({self.root})", AS_ITS_MOUNT):
            try:
                operation = next(steps)
                while True:
                    operation = steps.send(self.perform(operation))
            except StopIteration as stop:
                result: T = stop.value
                return result

    def perform(self, operation: Operation[T]) -> T:
        """Performs one operation, and gives its result. Raises `NasError`."""
        name = type(operation).__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        self._began = self._clock.boottime()
        try:
            return operation.perform(self)
        except OSError as error:
            raise nas_error(error, f"use the state database in {self.root}") from error
        finally:
            self._began = None

    def seconds_under_way(self) -> float:
        """How long the operation that is being performed has taken so far.

        May be asked by another thread. 0 if there is none.
        """
        began = self._began
        return 0.0 if began is None else self._clock.boottime() - began

    # Reading

    def list_generations(self) -> tuple[int, ...]:
        """See `ListGenerations`."""
        self._listed_at = self._clock.boottime()
        return tuple(generation_numbers(list_fresh(self.root / "gen")))

    def read_generation(self, number: int) -> bytes | None:
        """See `ReadGeneration`."""
        return self._read(self._generation(number))

    def read_view(self) -> bytes | None:
        """See `ReadView`. Raises `NasError` when there is no answer for long."""

        def read() -> bytes | None:
            list_fresh(self.root)
            return self._read(self.root / "vmtool-statedb", _VIEW_BYTES)

        return self._view(read)

    def read_temporary(self, name: str) -> bytes | None:
        """See `ReadTemporary`."""
        list_fresh(self.root / "tmp")
        return self._read(self.temporary(name))

    def _read(self, path: Path, limit: int = LIMIT_BYTES) -> bytes | None:
        return patiently(lambda: read_file(path, limit), self._clock)

    # Writing

    def write_temporary(self, name: str, data: bytes) -> None:
        """See `WriteTemporary`.

        Raises what the publication before met, if the same transaction found no room for its name:
        the head was read since, and does not have it.
        """
        before, self._no_room = self._no_room, None
        if before is not None and _transaction(before[0]) == _transaction(name):
            raise before[1]
        path = self._written[name] = self._new_temporary(name)
        if self.primitive == "directory" and ".view." not in name:
            make_directory(path)
            path /= "snapshot"
        write_new_file(path, data)

    def publish_generation(self, name: str, number: int) -> None:
        """See `PublishGeneration`: no error of the call itself is reported."""
        if self._clock.boottime() - self._listed_at > _HEAD_AGE_LIMIT_SECONDS:
            return  # slept since the head was read: read it again instead
        target = self.root / "gen" / generation_name(number)
        try:
            if self.primitive == "link":
                os.link(self.temporary(name), target, follow_symlinks=False)
            else:
                os.rename(self.temporary(name), target)
        except OSError as error:
            self._no_room = (name, error) if is_full(error) else None

    def sync_generation(self, number: int) -> bytes | None:
        """See `SyncGeneration`.

        On SMB, a name that was linked a moment ago can be opened only after up to a second. If the
        disk refuses a generation (`FlushError`), this process never believes that name again: a
        second flush would succeed, and prove nothing.
        """
        if number in self._lost:
            raise FlushError(errno.EIO, "the disk did not take it", generation_name(number))

        def sync() -> bytes:
            sync_directory(self.root / "gen")
            return sync_name(self._generation(number))

        try:
            return patiently(sync, self._clock)
        except FlushError:
            self._lost.add(number)
            raise

    def remove_temporary(self, name: str) -> None:
        """See `RemoveTemporary`.

        In one step, so that a publication still on its way finds all of it or nothing.

        A directory is renamed before it is emptied. Emptied under its own name it could be
        published empty; and a client that was not told that it had been published would empty the
        generation itself.
        """
        path = self.temporary(name)
        self._written.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            if self.primitive == "link" or not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                return
            aside = self._new_temporary("removed")
            os.rename(path, aside)
            os.unlink(aside / "snapshot")
            os.rmdir(aside)

    def replace_view(self, name: str) -> None:
        """See `ReplaceView`.

        Raises as `read_view` does; one that is done late leaves an old view, which the next tick
        repairs.
        """
        temporary = self.temporary(name)
        self._view(lambda: os.replace(temporary, self.root / "vmtool-statedb"))

    def keep_edited_view(self, generation: int, data: bytes) -> None:
        """See `KeepEditedView`."""
        name = f"vmtool-statedb.edited-{generation}-{self._private}-{next(self._serial)}"
        write_new_file(self.root / name, data)

    def wait(self, attempt: int) -> float:
        """See `Wait`: full jitter, so that writers that collided do not collide again."""
        seconds = self._clock.jitter(min(2.0, 0.005 * 2 ** min(attempt, 12)))
        self._clock.sleep(seconds)
        return seconds

    def _generation(self, number: int) -> Path:
        path = self.root / "gen" / generation_name(number)
        return path / "snapshot" if self.primitive == "directory" else path

    def temporary(self, name: str) -> Path:
        """Where the private file of this name lies."""
        return self._written.get(name) or self.root / "tmp" / f"{name}.{self._private}"

    def _new_temporary(self, name: str) -> Path:
        return self.root / "tmp" / f"{name}.{self._private}.{next(self._serial)}"


def _transaction(name: str) -> str:
    """The private name of an attempt without its number."""
    return name.rpartition(".")[0]
