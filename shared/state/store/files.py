"""The state database's door to the NAS: performs the operations of the protocol on real files.

Nothing else writes below `vmstate/`. What is known of NFS and SMB clients decides how each
operation is done (see docs/nas.md): a directory is opened before it is listed, because that
revalidates the client's cache of names; files are opened and read, never only looked at; a read
that meets a stale handle is tried again.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from shared.host.clock import Clock
from shared.nas.errors import ABSENT, PASSING, nas_error
from shared.nas.reading import list_fresh, open_file, read_file
from shared.nas.waiting import Bounded, patiently
from shared.nas.writing import make_directory, sync_directory, sync_name, write_new_file
from shared.state.store import operations as op

T = TypeVar("T")
Primitive = Literal["link", "directory"]

WIDTH: Final = 20
#: A generation is not published from a head that was read longer ago than this: its slot may have
#: been pruned since.
_HEAD_AGE_LIMIT_SECONDS: Final = 600

#: What there is below `vmstate/`.
DIRECTORIES: Final = ("gen", "history", "node", "tmp")


class StateFiles:
    """`vmstate/` on a NAS.

    `primitive` is how a generation gets its name: a hard link, or a directory renamed into place.
    """

    def __init__(self, root: Path, clock: Clock, primitive: Primitive = "link") -> None:
        self.root = root
        self.primitive = primitive
        self._clock = clock
        self._private = secrets.token_hex(6)
        self._serial = count(1)
        #: Where each private file that was written lies: a name that is used again gets a new file,
        #: because a request that works on the old one may still be on its way to the server.
        self._written: dict[str, Path] = {}
        self._listed_at = clock.boottime()
        #: The one file that all hosts replace: opening it was seen to hang on SMB (docs/nas.md),
        #: and nothing depends on it.
        self._view = Bounded("vmtool-statedb")
        self._began: float | None = None
        #: Operations performed, by name: what the benchmark counts.
        self.counts: dict[str, int] = {}

    def run(self, steps: op.Steps[T]) -> T:
        """Drives a piece of the protocol to its result.

        Raises `NasError` when the NAS refuses an operation that must work.
        """
        try:
            operation = next(steps)
            while True:
                operation = steps.send(self.perform(operation))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def perform(self, operation: op.Operation) -> Any:  # noqa: ANN401 - the answer's type belongs to the operation
        """Performs one operation."""
        name = type(operation).__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        self._began = self._clock.boottime()
        try:
            return _PERFORM[type(operation)](self, operation)
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

    def list_generations(self, _: op.ListGenerations) -> tuple[int, ...]:
        """See `ListGenerations`."""
        self._listed_at = self._clock.boottime()
        return tuple(generation_numbers(list_fresh(self.root / "gen")))

    def read_generation(self, operation: op.ReadGeneration) -> bytes | None:
        """See `ReadGeneration`."""
        path = self.root / "gen" / generation_name(operation.number)
        return self._read(path / "snapshot" if self.primitive == "directory" else path)

    def read_view(self, _: op.ReadView) -> bytes | None:
        """See `ReadView`. Raises `NasError` when there is no answer for so long that it is better done without."""

        def read() -> bytes | None:
            list_fresh(self.root)
            return self._read(self.root / "vmtool-statedb")

        return self._view(read)

    def read_lease(self, _: op.ReadLease) -> tuple[bytes, int] | None:
        """See `ReadLease`."""
        list_fresh(self.root)
        try:
            with open_file(self.root / "vmtool-dblock") as file:
                return file.read(), os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            if (
                error.errno in ABSENT | PASSING
            ):  # replaced while it was read: the next look will tell
                return None
            raise

    def read_temporary(self, operation: op.ReadTemporary) -> bytes | None:
        """See `ReadTemporary`."""
        list_fresh(self.root / "tmp")
        return self._read(self._temporary(operation.name))

    def _read(self, path: Path) -> bytes | None:
        return patiently(lambda: read_file(path), self._clock)

    # Writing

    def write_temporary(self, operation: op.WriteTemporary) -> None:
        """See `WriteTemporary`."""
        path = self._written[operation.name] = self._new_temporary(operation.name)
        if self.primitive == "directory" and ".view." not in operation.name:
            make_directory(path)
            path /= "snapshot"
        write_new_file(path, operation.data)

    def publish_generation(self, operation: op.PublishGeneration) -> None:
        """See `PublishGeneration`: no error of the call itself is reported."""
        if self._clock.boottime() - self._listed_at > _HEAD_AGE_LIMIT_SECONDS:
            return  # slept since the head was read: read it again instead
        target = self.root / "gen" / generation_name(operation.number)
        with contextlib.suppress(OSError):
            if self.primitive == "link":
                os.link(self._temporary(operation.name), target, follow_symlinks=False)
            else:
                os.rename(self._temporary(operation.name), target)

    def sync_generation(self, operation: op.SyncGeneration) -> bytes | None:
        """See `SyncGeneration`.

        On SMB, a name that was linked a moment ago can be opened only after up to a second.
        """
        path = self.root / "gen" / generation_name(operation.number)

        def sync() -> bytes:
            sync_directory(self.root / "gen")
            return sync_name(path / "snapshot" if self.primitive == "directory" else path)

        return patiently(sync, self._clock)

    def remove_temporary(self, operation: op.RemoveTemporary) -> None:
        """See `RemoveTemporary`.

        In one step, so that a publication still on its way finds all of it or nothing.

        A directory is renamed before it is emptied. Emptied under its own name it could be
        published empty; and a client that was not told that it had been published would empty the
        generation itself.
        """
        path = self._temporary(operation.name)
        self._written.pop(operation.name, None)
        with contextlib.suppress(FileNotFoundError):
            if self.primitive == "link" or not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                return
            aside = self._new_temporary("removed")
            os.rename(path, aside)
            os.unlink(aside / "snapshot")
            os.rmdir(aside)

    def replace_view(self, operation: op.ReplaceView) -> None:
        """See `ReplaceView`.

        Raises as `read_view` does; one that is done late leaves an old view, which the next tick
        repairs.
        """
        temporary = self._temporary(operation.name)
        self._view(lambda: os.replace(temporary, self.root / "vmtool-statedb"))

    def keep_edited_view(self, operation: op.KeepEditedView) -> None:
        """See `KeepEditedView`."""
        name = f"vmtool-statedb.edited-{operation.generation}-{self._private}-{next(self._serial)}"
        write_new_file(self.root / name, operation.data)

    def move_to_history(self, operation: op.MoveToHistory) -> None:
        """See `MoveToHistory`.

        A generation that a late writer put below the window goes to `tmp/`, to be swept.
        """
        name = generation_name(operation.number)
        history = self.root / "history" / f"{operation.number // 1000:07d}"
        with contextlib.suppress(FileExistsError):
            make_directory(history)
        source = self.root / "gen" / name
        with contextlib.suppress(FileNotFoundError):
            if name in list_fresh(history) or not self._move_without_replacing(
                source, history / name
            ):
                os.rename(source, self._new_temporary(f"stray.{name}"))

    def _move_without_replacing(self, source: Path, target: Path) -> bool:
        try:
            if self.primitive == "link":
                os.link(source, target, follow_symlinks=False)
                os.unlink(source)
            else:
                os.rename(source, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            return False
        return True

    # The lease marker

    def take_lease_aside(self, operation: op.TakeLeaseAside) -> None:
        """See `TakeLeaseAside`."""
        with contextlib.suppress(OSError):
            os.rename(self.root / "vmtool-dblock", self._temporary(operation.name))

    def put_lease_back(self, operation: op.PutLeaseBack) -> None:
        """See `PutLeaseBack`."""
        with contextlib.suppress(OSError):
            os.link(
                self._temporary(operation.name), self.root / "vmtool-dblock", follow_symlinks=False
            )

    def wait(self, operation: op.Wait) -> None:
        """See `Wait`: full jitter, so that writers that collided do not collide again."""
        self._clock.sleep(self._clock.jitter(min(2.0, 0.005 * 2 ** min(operation.attempt, 12))))

    def _temporary(self, name: str) -> Path:
        return self._written.get(name) or self.root / "tmp" / f"{name}.{self._private}"

    def _new_temporary(self, name: str) -> Path:
        return self.root / "tmp" / f"{name}.{self._private}.{next(self._serial)}"


_PERFORM: Final[dict[type, Callable[..., Any]]] = {
    op.ListGenerations: StateFiles.list_generations,
    op.ReadGeneration: StateFiles.read_generation,
    op.WriteTemporary: StateFiles.write_temporary,
    op.PublishGeneration: StateFiles.publish_generation,
    op.SyncGeneration: StateFiles.sync_generation,
    op.RemoveTemporary: StateFiles.remove_temporary,
    op.ReadView: StateFiles.read_view,
    op.ReplaceView: StateFiles.replace_view,
    op.KeepEditedView: StateFiles.keep_edited_view,
    op.MoveToHistory: StateFiles.move_to_history,
    op.ReadLease: StateFiles.read_lease,
    op.TakeLeaseAside: StateFiles.take_lease_aside,
    op.ReadTemporary: StateFiles.read_temporary,
    op.PutLeaseBack: StateFiles.put_lease_back,
    op.Wait: StateFiles.wait,
}


def generation_name(number: int) -> str:
    """The file name of a generation: padded, so that names sort like numbers."""
    return f"{number:0{WIDTH}d}"


def generation_numbers(names: Iterable[str]) -> Iterator[int]:
    """The numbers of those names that are a generation's.

    Digits are those of ASCII: Unicode has more, that are no numbers.
    """
    return (int(name) for name in names if len(name) == WIDTH and name.isascii() and name.isdigit())
