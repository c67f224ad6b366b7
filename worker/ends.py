"""How the workers of this host ended: each leaves a note on this host, and `notifier` tells the NAS."""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shared.host.clock import Clock, timestamp
from shared.state.sessions.host_look import WorkerEnd

log: Final = logging.getLogger(__name__)

_PREFIX: Final = "ended-"
_LIMIT: Final = 4096


def note_end(state_directory: Path, mountpoint: Path, worker: str, code: int, clock: Clock) -> None:
    """Notes how a worker ended. A note that cannot be written is done without: others tell of that."""
    note = _note(state_directory, mountpoint, worker)
    temporary = note.with_name(f"{note.name}.{secrets.token_hex(4)}")
    document = {"worker": worker, "code": code, "when": timestamp(clock.now())}
    try:
        temporary.write_text(json.dumps(document), encoding="utf-8")
        os.replace(temporary, note)
    except OSError as error:
        log.debug("not noted in %s: %s", note, error)


def read_ends(state_directory: Path, mountpoint: Path) -> Mapping[str, WorkerEnd]:
    """How each worker of this host last ended, for this NAS."""
    found: dict[str, WorkerEnd] = {}
    for note in sorted(state_directory.glob(f"{_PREFIX}*-{_key(mountpoint)}.json")):
        try:
            document = json.loads(note.read_text(encoding="utf-8")[:_LIMIT])
            end = WorkerEnd(int(document["code"]), str(document["when"]))
            found[str(document["worker"])] = end
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue  # removed, or nonsense: the worker's next end makes it anew
    return found


def _note(state_directory: Path, mountpoint: Path, worker: str) -> Path:
    return state_directory / f"{_PREFIX}{worker}-{_key(mountpoint)}.json"


def _key(mountpoint: Path) -> str:
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
