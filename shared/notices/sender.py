"""A program of its own: sends one message or one ping, or looks at a URL, and says what is wrong.

What to do comes by standard input, because arguments can be read by every user of the host. What is
said has no part of the URL in it, which may hold a password. Whoever starts it ends it in time.
"""

import importlib
import json
import logging
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final

_SHORTEST: Final = 3
_SECONDS: Final = 9.0
_SAID: Final = 300


def main() -> None:
    """Does what standard input says, and prints `{"problem": ...}`; empty if it went well."""
    job = json.load(sys.stdin.buffer)
    url = str(job["url"])
    try:
        problem = _ping(job) if job["what"] == "ping" else _notify(job)
    except Exception as error:  # noqa: BLE001 - a traceback would show the URL
        problem = f"{type(error).__name__}: {error}"
    print(json.dumps({"problem": scrubbed(problem, url)}))


def _notify(job: Mapping[str, Any]) -> str:
    apprise = importlib.import_module("apprise")
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("apprise")
    logger.handlers[:] = [handler]
    logger.propagate = False
    asset = apprise.AppriseAsset(
        app_id="vmbackup",
        app_desc="vmbackup",
        interpret_emojis=False,
        interpret_escapes=False,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )
    targets = apprise.Apprise(asset=asset)
    if not targets.add(str(job["url"])):
        return "Apprise does not understand its URL"
    if job["what"] == "look":
        return ""
    taken = targets.notify(
        body=job["body"], title=job["title"], notify_type=job["kind"], body_format="text"
    )
    return "" if taken else "; ".join(said) or "it did not take the message"


def _ping(job: Mapping[str, Any]) -> str:
    body = str(job["body"]).encode("utf-8", "backslashreplace")
    request = urllib.request.Request(  # noqa: S310 - the caller has looked that it is http
        str(job["url"]),
        data=body or None,
        headers={"User-Agent": "vmbackup", "Content-Type": "text/plain; charset=utf-8"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            answer.read(1024)
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}"
    except urllib.error.URLError as error:
        return f"no connection: {error.reason}"
    return ""


def scrubbed(text: str, url: str) -> str:
    """`text` without anything that stands in `url`, as one line of bounded length."""
    for part in sorted(_parts(url), key=len, reverse=True):
        text = text.replace(part, "***")
    return " ".join(text.split())[:_SAID]


def _parts(url: str) -> Iterator[str]:
    rest = url.partition("://")[2] or url
    for form in (rest, urllib.parse.unquote(rest), urllib.parse.unquote_plus(rest)):
        yield form
        yield from (part for part in re.split(r"[/:@?&=,;#]+", form) if len(part) >= _SHORTEST)


if __name__ == "__main__":
    main()
