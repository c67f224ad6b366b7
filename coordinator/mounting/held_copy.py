"""The session that holds a copy as long as it is mounted."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from shared.host.errors import VmBackupError

if TYPE_CHECKING:
    from shared.site import Site

_LOOK_SECONDS: Final = 2.0
#: After a loss of the database or of the session it is tried again so often.
_AGAIN_SECONDS: Final = 30.0


@contextlib.contextmanager
def held(job: Mapping[str, Any]) -> Iterator[None]:
    """Holds the copy as long as it is served; nothing, where there is no database to say so in.

    What is lost meanwhile (the NAS was away for longer than the lease) is taken again.
    """
    if not job["hold"]:
        yield
        return
    from shared.host.clock import SystemClock
    from shared.host.configuration import load
    from shared.site import open_site

    site = open_site(load(job["config"]), SystemClock())
    first, ended = threading.Event(), threading.Event()
    problems: list[VmBackupError] = []
    keeper = threading.Thread(
        target=_keep, args=(site, job, first, ended, problems), name="hold", daemon=True
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
    site: "Site",
    job: Mapping[str, Any],
    first: threading.Event,
    ended: threading.Event,
    problems: list[VmBackupError],
) -> None:
    while not ended.is_set():
        try:
            with site.database.session("mount") as session:
                session.read_copy(job["uuid"], job["stamp"])
                first.set()
                while not ended.wait(_LOOK_SECONDS):
                    session.check()
        except VmBackupError as error:
            if not first.is_set():
                problems.append(error)
                first.set()
                return
        ended.wait(_AGAIN_SECONDS)
