"""Sending messages and pings, within a bound: a child process does it, and is ended in time.

Whatever hangs (a name that is not resolved, a server that says nothing, or says it one letter a
minute) hangs there. Nothing here raises because a target does not answer.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

from shared.host.errors import ConfigurationError
from shared.host.processes import ChildProcess
from shared.notices.notice import Notice

#: So long a message may take, and the end of a child that takes longer.
MESSAGE_SECONDS: Final = 19.0
PING_SECONDS: Final = 9.0
_END_SECONDS: Final = 1.0
_CHILD: Final = (sys.executable, "-P", "-m", "shared.notices.child")


def require_apprise() -> None:
    """Raises `ConfigurationError` if the package that knows all targets is not installed."""
    if importlib.util.find_spec("apprise") is None:
        raise ConfigurationError(
            "messages are sent by the package apprise, which is not installed here",
            hint="it is the extra `notify`: /opt/vmbackup/bin/pip install '.[notify]'",
        )


def send(url: str, message: Notice) -> str:
    """Sends a message, in at most 20 s. Answers what went wrong; empty: the target took it."""
    job = {
        "what": "notify",
        "url": url,
        "title": message.title,
        "body": message.body,
        "kind": message.kind,
    }
    return _done(job, MESSAGE_SECONDS)


def ping(url: str, signal_: str = "", body: str = "") -> str:
    """Asks a web address, in at most 10 s; `signal_` (`start`, `fail`) stands behind its path.

    Answers what went wrong. Raises `ConfigurationError` if it is no web address.
    """
    place, question, query = url.partition("?")
    if not place.startswith(("http://", "https://")):
        raise ConfigurationError("ping.url: must begin with http:// or https://")
    path = f"{place.rstrip('/')}/{signal_}" if signal_ else place
    return _done({"what": "ping", "url": path + question + query, "body": body}, PING_SECONDS)


def _done(job: Mapping[str, str], seconds: float) -> str:
    """Has a child do it. It is killed when its time is over, or when we are interrupted."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        with os.fdopen(write, "wb") as sink:  # of bounded length: it fits into the pipe
            sink.write(json.dumps(job).encode())
        child = ChildProcess(_CHILD, stdin=source, stderr=subprocess.DEVNULL, ends_with_parent=True)
    try:
        printed = child.printed(seconds)
    finally:
        if child.poll() is None:
            child.end(_END_SECONDS, (signal.SIGKILL,))
            child.printed(_END_SECONDS)
    if printed is None:
        return f"it did not answer within {seconds + _END_SECONDS:.0f} s"
    try:
        return str(json.loads(printed[0])["problem"])
    except (ValueError, KeyError, TypeError):
        return "the program that sends ended without a word"
