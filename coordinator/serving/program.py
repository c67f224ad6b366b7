"""A server as a program of its own, from its job to the end of its mount."""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from coordinator.serving.telling import say_why


def run(work: Callable[[Mapping[str, Any]], None]) -> None:
    """Does `work` with the JSON object of standard input, in a process that nobody waits for.

    Says on standard output what goes wrong.
    """
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    job = json.load(sys.stdin.buffer)
    if os.fork():
        os._exit(0)  # whoever started this need not wait for the rest of it
    os.chdir("/")  # whatever directory this was started in may be removed or unmounted
    try:
        work(job)
    except Exception as error:  # noqa: BLE001 - the command says it; nobody reads a traceback here
        say_why(error)


def serve(operations: object, place: str, *, what: str, kind: str, **more: bool) -> None:
    """Serves until it is unmounted. Raises RuntimeError if it cannot be mounted.

    The kernel's list of mounts says `what` is mounted there, by a server of which `kind`.
    """
    import mfusepy

    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # of a terminal that is not ours
    mfusepy.FUSE(
        operations,
        place,
        foreground=True,
        ro=True,
        fsname=what.replace(",", "_"),
        subtype=kind,
        default_permissions=True,
        **more,
    )
