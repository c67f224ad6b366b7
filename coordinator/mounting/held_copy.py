"""The session that holds a copy as long as it is mounted."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.host.errors import CopyError, DatabaseDamagedError, LockLostError, VmBackupError
from shared.state.sessions.heartbeat import BEATS_PER_LEASE
from shared.state.store import protocol

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.sessions.session import Session
    from shared.state.store.database import Database

_LOOK_SECONDS: Final = 2.0
#: The session is looked for in the database so often at least, and taken again where it is lost.
_AGAIN_SECONDS: Final = 6.0


@contextlib.contextmanager
def held(job: Mapping[str, Any], *, again_seconds: float = _AGAIN_SECONDS) -> Iterator[None]:
    """Holds the copy as long as it is served; nothing, where there is no database to say so in.

    What is lost meanwhile is taken again: the NAS was away for longer than the lease, or the
    database was lost, and made anew. Not in a database that this host does not accept. Each
    `again_seconds` at least it looks, and tries.
    """
    if not job["hold"]:
        yield
        return
    first, ended = threading.Event(), threading.Event()
    problems: list[VmBackupError] = []
    keeper = threading.Thread(
        target=_keep, args=(job, first, ended, problems, again_seconds), name="hold", daemon=True
    )
    keeper.start()
    try:
        first.wait()
        if problems:
            raise problems[0]
        yield
    finally:
        ended.set()
        keeper.join(timeout=15)


def _keep(
    job: Mapping[str, Any],
    first: threading.Event,
    ended: threading.Event,
    problems: list[VmBackupError],
    again_seconds: float,
) -> None:
    while not ended.is_set():
        try:
            site = _opened(job)
            with site.database.session("mount") as session:
                session.read_copy(job["uuid"], job["stamp"])
                _require_there(job)  # it may have been removed just before
                first.set()
                _watch(site.database, session, ended, again_seconds)
        except VmBackupError as error:
            if not first.is_set():
                problems.append(error)
                first.set()
                return
        ended.wait(again_seconds)


def _opened(job: Mapping[str, Any]) -> "Site":
    """The site as it is now: the database may be another one than before.

    Raises what `open_site` raises, and `DatabaseDamagedError` if this host does not accept its
    history, `CopyError` if the copy is gone.
    """
    from shared.host.clock import SystemClock
    from shared.host.configuration import load
    from shared.site import open_site

    site = open_site(load(job["config"]), SystemClock())
    site.database.head()
    _require_there(job)
    return site


def _require_there(job: Mapping[str, Any]) -> None:
    if not Path(job["ova"]).is_file():
        raise CopyError(f"{job['ova']} is gone")


def _watch(
    database: "Database", session: "Session", ended: threading.Event, again_seconds: float
) -> None:
    """Returns when the mount has ended. Raises `VmBackupError` when the session is lost."""
    seconds = min(again_seconds, session.lease_seconds / BEATS_PER_LEASE)
    looked = session.clock.monotonic()
    while not ended.wait(min(_LOOK_SECONDS, seconds)):
        session.check()
        if session.clock.monotonic() - looked >= seconds:
            _require_in(database, session)
            looked = session.clock.monotonic()


def _require_in(database: "Database", session: "Session") -> None:
    """Raises `VmBackupError` if the database that is there knows nothing of the session.

    One that was ended is known: somebody has decided that. A NAS that does not answer is no loss.
    Nothing is remembered of what is seen: it may be another history than that of `database`.
    """
    try:
        head = database.files.run(protocol.read_head())
    except DatabaseDamagedError:
        raise
    except VmBackupError:
        return
    if session.id not in head.contents.sessions:
        raise LockLostError("the state database that is there does not know this session")
