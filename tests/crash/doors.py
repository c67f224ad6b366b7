"""Every place where a program writes to the NAS, met from below.

The functions of the operating system themselves are wrapped.

Nothing has to be registered anywhere: whatever a program does below one of the watched directories,
through its own doors to the NAS, past them or inside of a library, is a crash point with a name. In
a process that has these doors the program either notes all points that it passes, or is killed at
one of them.
"""

import builtins
import functools
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal

#: What a path is named by, for functions that change something: the first argument, a descriptor,
#: or two paths.
_ONE_PATH: Final = (
    "mkdir",
    "unlink",
    "remove",
    "rmdir",
    "truncate",
    "chmod",
    "chown",
    "utime",
    "mkfifo",
    "mknod",
    "setxattr",
)
_DESCRIPTOR: Final = (
    *(
        "write",
        "pwrite",
        "writev",
        "pwritev",
        "ftruncate",
        "fsync",
        "fdatasync",
        "fchmod",
        "fchown",
    ),
    *("sendfile", "posix_fallocate"),
)
_TWO_PATHS: Final = ("rename", "replace", "link", "symlink")
#: Commands of VBoxManage that change something.
_CHANGING: Final = ("registervm", "unregistervm", "snapshot", "startvm", "controlvm", "closemedium")
WRAPPED: Final = frozenset({"open", *_ONE_PATH, *_DESCRIPTOR, *_TWO_PATHS, "copy_file_range"})
#: Opened like that, a file is about to be written; opened otherwise, perhaps only to be synced.
_MAKING: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_WRITING: Final = _MAKING | os.O_RDWR

#: before the operation; after it; with half of it done, as a power cut leaves what was not on the
#: disk yet.
Moment = Literal["before", "after", "torn"]

_PRODUCT: Final = ("coordinator.", "worker.", "shared.")
_VARIABLE: Final = (
    (re.compile(r"\d{8}T\d{6}Z-\d+"), "STAMP"),
    (re.compile(r"\.\d+\.[0-9a-f]{8}(?![0-9a-f])"), ".SESSION"),
    (re.compile(r"(?<![A-Za-z])[0-9a-f]{6,}(?![A-Za-z])"), "X"),
    (re.compile(r"\d+"), "N"),
)


@dataclass(frozen=True, slots=True)
class Point:
    """A crash point. `name` is the operation, what it is done to and by whom.

    `occurrence` counts from 1 in one run of a program.
    """

    name: str
    occurrence: int
    can_tear: bool = False

    def __str__(self) -> str:
        return self.name if self.occurrence == 1 else f"{self.name} (time {self.occurrence})"


@dataclass(frozen=True, slots=True)
class Kill:
    """The process ends at this point."""

    point: Point
    moment: Moment


class Doors:
    """Wraps the functions of this process.

    `report` takes every point; `kill` is where the process ends.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        report: Callable[[Point], None],
        kill: Kill | None,
        *,
        commands: bool = False,
    ) -> None:
        self._commands = commands
        self._roots = tuple(os.path.realpath(root) for root in roots)
        self._report, self._kill = report, kill
        self._passed: Counter[str] = Counter()
        self._unsynced: set[tuple[int, int]] = set()
        self._guard = threading.RLock()
        self._true = {name: getattr(os, name) for name in WRAPPED if hasattr(os, name)}

    def install(self) -> None:
        """From here on every write below the roots is a point."""
        for name, function in self._true.items():
            wrapped = self._wrap(name, function)
            setattr(os, name, wrapped)
            for abilities in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
                if function in abilities:
                    abilities.add(wrapped)
        builtins_open = builtins.open

        @functools.wraps(builtins_open)
        def open_file(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+"):
                return builtins_open(file, mode, *rest, **more)
            opened = self._pass(
                "open",
                self._path(file, None),
                lambda: builtins_open(file, mode, *rest, **more),
                None,
            )
            self._unsynced.add(_identity(os.fstat(opened.fileno())))
            return opened

        builtins.open = open_file
        if self._commands:
            self._wrap_commands()

    def _wrap_commands(self) -> None:
        """What VirtualBox is told to change is a point, too."""
        begin = subprocess.Popen.__init__

        @functools.wraps(begin)
        def begin_process(process: Any, words: Any, *rest: Any, **more: Any) -> None:
            named = [Path(words[0]).name, *words[1:2]] if isinstance(words, list | tuple) else []
            if named[:1] == ["VBoxManage"] and named[-1] in _CHANGING:
                name = f"{' '.join(named)} < {who(sys._getframe(1))}"
                self._meet(name, lambda: begin(process, words, *rest, **more), None)
            else:
                begin(process, words, *rest, **more)

        subprocess.Popen.__init__ = begin_process  # type: ignore[method-assign]

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **more: Any) -> Any:
            flags = (
                (arguments[1] if len(arguments) > 1 else more["flags"])
                if name == "open"
                else _WRITING
            )
            if not flags & _WRITING:
                return function(*arguments, **more)
            target = self._target(name, arguments, more)
            done = self._pass(
                name, target, lambda: function(*arguments, **more), self._tearing(name, arguments)
            )
            if flags & _MAKING:
                self._note_contents(name, arguments, done)
            return done

        return wrapped

    def _target(self, name: str, arguments: Sequence[Any], more: dict[str, Any]) -> str:
        if name in _DESCRIPTOR or (name == "copy_file_range"):
            return self._of_descriptor(arguments[1] if name == "copy_file_range" else arguments[0])
        if name in _TWO_PATHS:
            return self._path(
                arguments[1],
                more.get("dst_dir_fd") or (more.get("dir_fd") if name == "symlink" else None),
            )
        if isinstance(arguments[0], int):
            return self._of_descriptor(arguments[0])
        return self._path(arguments[0], more.get("dir_fd"))

    def _path(self, path: Any, directory: int | None) -> str:
        text = os.fsdecode(path)
        if directory is not None and not text.startswith("/"):
            text = f"{self._of_descriptor(directory)}/{text}"
        parent, name = os.path.split(os.path.abspath(text))
        return os.path.join(os.path.realpath(parent), name)

    def _of_descriptor(self, descriptor: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            return ""

    def _note_contents(self, name: str, arguments: Sequence[Any], done: Any) -> None:
        """Keeps account of files whose contents this process has changed, and not brought to the
        disk since.
        """
        if name == "open":
            self._unsynced.add(_identity(os.fstat(done)))
        elif name in ("fsync", "fdatasync"):
            self._unsynced.discard(_identity(os.fstat(arguments[0])))
        elif name == "copy_file_range" or (name in _DESCRIPTOR and not name.startswith("fch")):
            self._unsynced.add(_identity(os.fstat(arguments[name == "copy_file_range"])))

    def _tearing(self, name: str, arguments: Sequence[Any]) -> Callable[[], None] | None:
        """How to do half of an operation; None where there is no half."""
        if name in ("write", "pwrite") and len(arguments[1]) > 1:
            half = memoryview(arguments[1])[: len(arguments[1]) // 2]
            return lambda: self._true[name](arguments[0], half, *arguments[2:])
        if name in ("fsync", "fdatasync"):
            status = os.fstat(arguments[0])
            if (
                stat.S_ISREG(status.st_mode)
                and status.st_size > 1
                and _identity(status) in self._unsynced
            ):
                return lambda: self._true["truncate"](
                    f"/proc/self/fd/{arguments[0]}", status.st_size // 2
                )
        return None

    def _pass(
        self,
        operation: str,
        target: str,
        perform: Callable[[], Any],
        tear: Callable[[], None] | None,
    ) -> Any:
        root = next(
            (root for root in self._roots if target == root or target.startswith(root + "/")), None
        )
        if root is None:
            return perform()
        name = f"{operation} {plain(os.path.relpath(target, root))} < {who(sys._getframe(2))}"
        return self._meet(name, perform, tear)

    def _meet(self, name: str, perform: Callable[[], Any], tear: Callable[[], None] | None) -> Any:
        """Performs what the point `name` is, unless the process ends there."""
        with self._guard:
            self._passed[name] += 1
            point = Point(name, self._passed[name], tear is not None)
            self._report(point)
        kill = self.kill_at(point)
        if kill and kill.moment != "after":
            if kill.moment == "torn" and tear is not None:
                tear()
            self.end()
        try:
            return perform()
        finally:
            if kill and kill.moment == "after":
                self.end()

    def kill_at(self, point: Point) -> Kill | None:
        """Whether, and when, the process ends at this point, which it has reached."""
        here = self._kill and (self._kill.point.name, self._kill.point.occurrence) == (
            point.name,
            point.occurrence,
        )
        return self._kill if here else None

    def end(self) -> None:
        """Ends the process."""
        die()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def die() -> None:
    """Ends this process as a power failure would: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def plain(path: str) -> str:
    """A path without what differs from run to run."""
    for pattern, word in _VARIABLE:
        path = pattern.sub(word, path)
    return path


#: Functions that every way passes: a name without them tells more.
BETWEEN = (
    "state_files.run",
    "state_files.perform",
    "operations.perform",
    "database.with_room",
    "cli.",
)


def who(frame: FrameType | None) -> str:
    """Which functions of the product, innermost first, and the library or thread that is in
    between.
    """
    names: list[str] = []
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if (
            module.startswith(_PRODUCT)
            and module not in ("shared.command_line", "shared.program")
            and not frame.f_code.co_name.startswith("<")
        ):
            names.append(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}")
        elif module.startswith("filelock") and not names:
            names.append("filelock")
        frame = frame.f_back
    kept = [name for name in dict.fromkeys(names) if not name.startswith(BETWEEN)]
    thread = threading.current_thread()
    return " < ".join(kept[:6]) + ("" if thread is threading.main_thread() else f" [{thread.name}]")
