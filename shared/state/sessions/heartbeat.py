"""`node/<session>`.

One small file a worker process, rewritten in place, that shows it alive and what it is doing.

Rewritten in place and not renamed over, because an SMB client that polls a name keeps reading the
file that was there before.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shared.host.clock import Clock
from shared.host.documents import load
from shared.host.errors import LockLostError
from shared.host.process_identity import ProcessIdentity
from shared.nas.reading import list_fresh, read_file
from shared.nas.writing import FILE_MODE, like_directory, open_in_place, set_mode

log: Final = logging.getLogger(__name__)

#: A session beats this often within one lease time.
BEATS_PER_LEASE: Final = 10
#: It stops itself when its last beat that reached the NAS is older than this part of the lease
#: time, before others may take over.
SELF_FENCE: Final = 0.7
#: A heart does not go on for a worker that hangs: after so long in one operation on the database's
#: files. Much longer than any that ended was seen to take (70 s on SMB, docs/nas.md).
HANGING_SECONDS: Final = 180.0
#: Longer than any heartbeat, in bytes: one has the command line of a VBoxManage.
_LIMIT_BYTES: Final = 1 << 18
#: What `new_session_id` makes, and more, but always a plain name that is not hidden.
_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}")


@dataclass
class Doing:
    """What a session is at, for people.

    `rate` is in bytes of `bytes_done` a second, `seconds_left` a guess from `percent`.

    `child` is the VBoxManage process it started, so that others can find an orphan.
    """

    worker: str
    vm: str = ""
    phase: str = ""
    percent: float | None = None
    bytes_done: int | None = None
    rate: int | None = None
    seconds_left: int | None = None
    child: ProcessIdentity | None = None

    def at(self, done: int, total: int) -> None:
        """Notes how far it is, in bytes."""
        self.bytes_done = done
        self.percent = round(100 * done / total, 1) if total else None

    def rest(self) -> None:
        """Nothing more is done to the VM."""
        self.vm = self.phase = ""
        self.percent = self.bytes_done = self.rate = self.seconds_left = self.child = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not known is left out."""
        values = {
            name: value
            for name, value in vars(self).items()
            if value not in (None, "") and name != "child"
        }
        if self.child is not None:
            child = {
                "pid": self.child.pid,
                "started": self.child.started,
                "born": self.child.born,
                "command": list(self.child.command),
            }
            values["child"] = {
                name: value for name, value in child.items() if value not in ("", [])
            }
        return values


@dataclass
class Heartbeat:
    """The heartbeat of this process.

    `start` it before the session commits anything; `check` it wherever work goes on.
    """

    directory: Path
    session: str
    lease_seconds: float
    clock: Clock
    identity: Mapping[str, Any]
    doing: Doing
    #: How long the process has been in one operation on the database's files.
    seconds_under_way: Callable[[], float] = lambda: 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _last_beat: float = 0.0

    def start(self) -> None:
        """Writes the first beat and goes on beating in a thread.

        Raises OSError if that fails; nothing is left then, and it may be tried again.
        """
        try:
            self._write(os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(self.directory / self.session)
            raise
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the heartbeat and removes the file. A NAS that does not answer is not waited for."""
        if self.cease():
            try:
                os.unlink(self.directory / self.session)
            except OSError as error:
                log.info("heartbeat file not removed: %s", error)

    def cease(self) -> bool:
        """Ends the heartbeat and leaves the file.

        Whether it was started and no beat is on its way to the NAS any more, which is waited for
        five seconds.
        """
        self._stop.set()
        if self._thread is None:
            return False
        self._thread.join(timeout=5)
        return not self._thread.is_alive()

    def beat(self) -> None:
        """Beats once, now. Raises OSError; then the last beat is the one before."""
        self._write(os.O_CREAT)

    def beat_if_alive(self) -> None:
        """Like `beat`, but not while the process hangs, longer than `HANGING_SECONDS`."""
        under_way = self.seconds_under_way()
        if under_way < HANGING_SECONDS:
            self.beat()
        else:
            log.warning(
                "no heartbeat: the NAS has not answered for %.0f s",
                under_way,
                extra={"session": self.session},
            )

    def check(self) -> None:
        """Raises `LockLostError` when the NAS was away so long that others may take over."""
        silent = self.clock.boottime() - self._last_beat
        if silent > self.lease_seconds * SELF_FENCE:
            raise LockLostError(
                (
                    f"the NAS has not taken a heartbeat for {silent:.0f} s: another host may take "
                    f"over, so this worker stops"
                ),
                hint="look at the connection to the NAS",
            )

    def _run(self) -> None:
        while not self._stop.wait(self.lease_seconds / BEATS_PER_LEASE):
            try:
                self.beat_if_alive()
            except OSError as error:
                log.warning("no heartbeat: %s", error, extra={"session": self.session})

    def _write(self, flags: int) -> None:
        began = self.clock.boottime()
        document = {"beat": secrets.token_hex(8), **self.identity, **self.doing.to_json()}
        data = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        descriptor = open_in_place(
            self.directory / self.session, flags, like_directory(FILE_MODE, self.directory)
        )
        try:
            if flags & os.O_EXCL:
                set_mode(descriptor, like_directory(FILE_MODE, self.directory))
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._last_beat = began


def beat_path(directory: Path, session: str) -> Path | None:
    """Where a session's heartbeat is.

    None if its id, which came from the NAS, is none that a program makes: it is never made a path.
    """
    return directory / session if _ID.fullmatch(session) else None


def read_beat(directory: Path, session: str) -> bytes | None:
    """The bytes of a session's heartbeat file; None if there is none, or can be none.

    Raises OSError.
    """
    path = beat_path(directory, session)
    if path is None:
        return None
    list_fresh(directory)
    try:
        return read_file(path, _LIMIT_BYTES)
    except FileNotFoundError:
        return None


def parse_beat(data: bytes | None) -> dict[str, Any]:
    """What a heartbeat says; empty if it cannot be read (it may be read while it is rewritten)."""
    try:
        document = load(data or b"{}", _LIMIT_BYTES)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
