"""How the workers of this host ended: each leaves a note on the host, `notifier` tells the NAS."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shared.host.clock import Clock, timestamp
from shared.host.errors import ConfigurationError
from shared.host.notes import Note
from shared.state.sessions.host_look import WorkerEnd

log: Final = logging.getLogger(__name__)

_PREFIX: Final = "ended-"


def note_end(state_directory: Path, mountpoint: Path, worker: str, code: int, clock: Clock) -> None:
    """Notes how a worker ended. One that cannot be written is done without: others tell of that."""
    document = {"worker": worker, "code": int(code), "when": timestamp(clock.now())}
    try:
        _note(state_directory / f"{_PREFIX}{worker}-{_key(mountpoint)}.json").write(document)
    except ConfigurationError as error:
        log.debug("%s", error)


def read_ends(state_directory: Path, mountpoint: Path) -> Mapping[str, WorkerEnd]:
    """How each worker of this host last ended, for this NAS."""
    found: dict[str, WorkerEnd] = {}
    for path in sorted(state_directory.glob(f"{_PREFIX}*-{_key(mountpoint)}.json")):
        try:
            document = _note(path).read()
        except ConfigurationError:
            continue
        worker, code, when = (document.get(name) for name in ("worker", "code", "when"))
        if isinstance(worker, str) and isinstance(code, int) and isinstance(when, str):
            found[worker] = WorkerEnd(code, when)
    return found


def marks(state_directory: Path, mountpoint: Path) -> Mapping[str, object]:
    """For each worker of this host something that differs after each of its ends."""
    found: dict[str, object] = {}
    for path in state_directory.glob(f"{_PREFIX}*-{_key(mountpoint)}.json"):
        with contextlib.suppress(OSError):
            status = path.stat()
            worker = path.name.removeprefix(_PREFIX).rpartition("-")[0]
            found[worker] = (status.st_ino, status.st_mtime_ns)
    return found


def told_directory(state_directory: Path, mountpoint: Path) -> Path:
    """Where `run` notes what it has told of this NAS."""
    return state_directory / f"told-{_key(mountpoint)}"


def events_note(state_directory: Path, mountpoint: Path) -> Path:
    """Where this host notes what it has told people of this NAS by itself."""
    return state_directory / f"events-{_key(mountpoint)}.json"


def space_note(state_directory: Path, mountpoint: Path) -> Path:
    """Where this host notes how much was free on this NAS."""
    return state_directory / f"space-{_key(mountpoint)}.json"


def unlisted_note(state_directory: Path, mountpoint: Path) -> Path:
    """Where this host notes when it looked on this NAS for copies without a record."""
    return state_directory / f"unlisted-copies-{_key(mountpoint)}.json"


def _note(path: Path) -> Note:
    return Note(path, "how a worker ended")


def _key(mountpoint: Path) -> str:
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
