"""What a person at a terminal is shown of running backups. The words are in `progress_words`.

The backup worker looks at what its session is doing, and shows it: at once from its first second
and then all the time. Where `run` has started it, it sends each look as a line of JSON to `run`,
which has the terminal. Where nobody sits at a terminal nothing of this happens.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final, Protocol, Self

from shared.host.logs import AT_TERMINAL
from shared.host.printable import json_line
from shared.host.waits import shown_by
from shared.state.sessions.heartbeat import Doing
from worker.progress_words import outcome
from worker.report import Report

log: Final = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.5
_WAITS: Final = "(waits)"  # brackets: a VM may be called so, too


class Display(Protocol):
    """Where it is shown."""

    def show(self, look: Mapping[str, Any]) -> None:
        """What is done to a VM (`vm`) at this moment: the fields of `Doing`."""

    def ended(self, vm: str, how: str) -> None:
        """That the work on a VM is over, in words."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """Nothing more comes."""


class PipeToRun:
    """Sends what is shown to `run`, by its pipe."""

    def show(self, look: Mapping[str, Any]) -> None:
        """See `Display`."""
        self._send({"progress": dict(look)})

    def ended(self, vm: str, how: str) -> None:
        """See `Display`."""
        self._send({"ended": vm, "how": how})

    def say(self, line: str) -> None:
        """See `Display`."""
        self._send({"summary": line})

    def close(self) -> None:
        """See `Display`."""

    def _send(self, document: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(json_line(document) + "\n")
            sys.stderr.flush()


def passed_on(line: str, display: "Display | None") -> bool:
    """Shows a line that `PipeToRun` sent. False if it is none."""
    if display is None or not line.startswith(('{"progress":', '{"ended":', '{"summary":')):
        return False
    try:
        document = json.loads(line)
    except ValueError:
        return False
    match document:
        case {"progress": {"vm": str()} as look}:
            display.show(look)
        case {"ended": str(vm), "how": str(how)}:
            display.ended(vm, how)
        case {"summary": str(summary)}:
            display.say(summary)
        case _:  # a hook printed it
            return False
    return True


def display_here(*, as_json: bool) -> Display | None:
    """Where this process shows what it does; None: nobody looks."""
    if os.environ.get(AT_TERMINAL):
        return PipeToRun()
    if as_json or not sys.stderr.isatty():
        return None
    from worker.display import at_terminal

    return at_terminal()


class Watching:
    """Looks at what a session is doing, in a thread of its own, and shows it."""

    def __init__(self, display: Display, doing: Doing, report: Report) -> None:
        self._display, self._doing, self._report = display, doing, report
        self._vm = self._phase = ""
        self._began = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        self._end()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS if self._vm else _LOOK_SECONDS / 5):
            self.look()

    def look(self) -> None:
        """Shows what is done now."""
        seen = {name: value for name, value in vars(self._doing).items() if name != "child"}
        vm, phase = str(seen["vm"]), str(seen["phase"])
        if vm != self._vm:
            self._end()
            self._vm = vm
        if not vm:
            return
        if phase != self._phase:
            self._phase, self._began = phase, time.monotonic()
        if phase == "check":  # its bytes are those of the export, and it has no rate
            seen |= {"bytes_done": None, "rate": None, "seconds_left": self._left(seen)}
        elif phase != "export":
            seen |= {"percent": None, "bytes_done": None, "rate": None, "seconds_left": None}
        self._display.show(seen)

    def _left(self, seen: Mapping[str, Any]) -> int | None:
        percent, elapsed = seen.get("percent"), time.monotonic() - self._began
        return round(elapsed * (100 - percent) / percent) if percent and elapsed > 1 else None

    def _end(self) -> None:
        if self._vm:
            self._display.ended(self._vm, outcome(self._report, self._vm))
        self._vm = self._phase = ""


@contextlib.contextmanager
def shown(display: Display | None, doing: Doing, report: Report) -> Iterator[None]:
    """Within, what the session is doing is shown, if there is anybody to look."""
    if display is None:
        yield
        return
    with _logs_above(display), Watching(display, doing, report), waits_shown(display):
        yield


@contextlib.contextmanager
def waits_shown(display: Display | None = None) -> Iterator[None]:
    """Within, what is waited for is shown there; None: by `run`, if it has started this worker."""
    if display is None and os.environ.get(AT_TERMINAL):
        display = PipeToRun()
    if display is None:
        yield
        return
    with shown_by(partial(_show_wait, display)):
        yield


def _show_wait(display: Display, text: str) -> None:
    if text:
        display.show({"vm": _WAITS, "phase": text.removeprefix("waiting ")})
    else:
        display.ended(_WAITS, "")


@contextlib.contextmanager
def _logs_above(display: Display) -> Iterator[None]:
    """Within, what is logged does not tear what is shown."""
    if isinstance(display, PipeToRun):  # `run` takes them apart
        yield
        return
    handlers = [
        one for one in logging.getLogger().handlers if isinstance(one, logging.StreamHandler)
    ]
    streams = [handler.setStream(_Above(display)) for handler in handlers]
    try:
        yield
    finally:
        display.close()
        for handler, stream in zip(handlers, streams, strict=True):
            if stream is not None:
                handler.setStream(stream)


class _Above:
    """A stream whose lines appear above what is shown."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def write(self, text: str) -> None:
        if text.strip():
            self._display.say(text.rstrip("\n"))

    def flush(self) -> None:
        """Nothing is held back."""
