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
from shared.host.extras import require_extra
from shared.host.processes import ChildProcess
from shared.host.waits import waiting
from shared.notices.notice import Notice

#: So long a message may take, and the end of a child that takes longer.
MESSAGE_SECONDS: Final = 19.0
PING_SECONDS: Final = 9.0
END_SECONDS: Final = 1.0
_CHILD: Final = (sys.executable, "-P", "-m", "shared.notices.sender")


def require_apprise() -> None:
    """Raises `ConfigurationError` if the package that knows all targets is not installed."""
    require_extra("notify", "apprise", "apprise", "messages are sent by")


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


def not_understood(url: str) -> str:
    """What is wrong with the URL of a target; empty if it is one, or if nobody can tell here."""
    if importlib.util.find_spec("apprise") is None:
        return ""
    return _done({"what": "look", "url": url}, MESSAGE_SECONDS)


def not_a_ping(url: str) -> str:
    """What is wrong with the URL of a ping; empty if nothing is."""
    return "" if url.startswith(("http://", "https://")) else "must begin with http:// or https://"


def ping(url: str, signal_: str = "", body: str = "") -> str:
    """Asks a web address, in at most 10 s; `signal_` (`start`, `fail`) stands behind its path.

    Answers what went wrong. Raises `ConfigurationError` if it is no web address.
    """
    if problem := not_a_ping(url):
        raise ConfigurationError(f"ping.url: {problem}")
    place, question, query = url.partition("?")
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
        with waiting("an answer to what is sent", seconds + END_SECONDS):
            printed = child.printed(seconds)
    finally:
        if child.poll() is None:
            child.end(END_SECONDS, (signal.SIGKILL,))
            child.printed(END_SECONDS)
    if printed is None:
        return f"it did not answer within {seconds + END_SECONDS:.0f} s"
    try:
        return str(json.loads(printed[0])["problem"])
    except (ValueError, KeyError, TypeError):
        return "the program that sends ended without a word"
