"""What `run` prints of what its workers say: to cron, which mails it, only what is news.

An error is printed when it begins, once a day while it lasts, and when it is over; one cause that
several workers meet in a tick is printed once. Of an error of one VM it is not said that it is
over: that no worker says it again does not mean that one looked. On a terminal, and with `-v`, each
tick prints all of its own. Everything is in `run.log` in the host's state directory, whatever is
printed.

What was told is one note a message, each written whole or not at all: two `run` at once may at
worst tell something twice, and one that is killed at worst tells it again.
"""

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.host import logs
from shared.host.clock import Clock, is_over, timestamp
from shared.host.errors import ConfigurationError
from shared.host.notes import Note
from shared.host.printable import json_line, printable_lines
from shared.output import error_text

PROGRAM: Final = "vmbackup-worker"
#: How often an error that lasts is printed.
REPEAT_SECONDS: Final = 24 * 3600.0
#: More messages than this are not remembered, and so printed at each tick.
_LIMIT: Final = 1000
#: The log gives way to a new one at this size; the one before it is kept.
_LOG_BYTES: Final = 1 << 20
#: What differs from tick to tick in the message of one and the same error.
_CHANGING: Final = re.compile(
    r"\d{8}T\d{6}Z(-\d+)?"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?Z?"
    r"|\b\d[\d.,]*(?= ?([KMGT]i?B|B|%|ms|s|min|minutes?|h|hours?|d|days?|seconds?|bytes)\b)"
    r"|\b(?:process|pid|generations?|number) \d+"
)


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker said.

    `text` is what is compared and repeated, `line` what is printed. `serious`: an error that each
    tick meets again while it lasts, so of no single VM: it is told when it is over. `weighty`: at
    least a warning; what is not is printed with `-v`.
    """

    worker: str
    text: str
    line: str
    serious: bool
    weighty: bool = True

    @property
    def key(self) -> str:
        """The same for the same error at the next tick, and from another worker."""
        return hashlib.sha256(_CHANGING.sub("#", self.text).encode()).hexdigest()[:32]


def understand(worker: str, line: str) -> Message:
    """A line of a worker's `--log-format json`; what is none is a message as it stands."""
    try:
        document: Mapping[str, Any] = json.loads(line)
        if "error" in document:
            told = document["error"]
            text, hint = str(told["message"]), str(told["hint"])
            return Message(worker, text, error_text(text, hint, PROGRAM), serious=True)
        level, vm = str(document["level"]), document.get("vm")
        text = f"{vm}: {document['message']}" if vm else str(document["message"])
        fault = str(document.get("exception", "")).splitlines()[-1:]
        return Message(
            str(document.get("worker", worker)),
            "\n".join([text, *fault]),
            logs.text_of(document),
            serious=level in ("error", "critical") and not vm,
            weighty=level not in ("debug", "info", "notice"),
        )
    except (ValueError, TypeError, KeyError):
        return Message(worker, line, line, serious=True)


class Telling:
    """What is told of one tick.

    `directory`: where notes are kept; None: nowhere, so that all is printed. `everything`: what was
    told at earlier ticks is told again. `as_json`: lines are printed as the workers wrote them.
    `most_notes`: more messages are not remembered. `log_bytes`: the log that has more gives way.
    """

    def __init__(
        self,
        directory: Path | None,
        clock: Clock,
        say: Callable[[str], None],
        *,
        everything: bool = False,
        as_json: bool = False,
        most_notes: int = _LIMIT,
        log_bytes: int = _LOG_BYTES,
    ) -> None:
        self._most_notes, self._log_bytes = most_notes, log_bytes
        self._directory, self._clock, self._say = directory, clock, say
        self._everything, self._as_json = everything, as_json
        self._heard: set[str] = set()
        self._lock = threading.Lock()

    def hear(self, worker: str, line: str) -> None:
        """Takes what a worker wrote, and prints it if it is news. Any thread may call it."""
        message = understand(worker, line)
        with self._lock:
            self._log(message.line)
            if not message.weighty or self._is_news(message):
                self._say(line if self._as_json else message.line)

    def conclude(self, ended: Collection[str]) -> None:
        """Forgets what workers that `ended` well did not say again; of what is serious it says so.

        So the same error of a VM is news when it is said again.
        """
        with self._lock:
            for note in self._notes():
                try:
                    told = note.read()
                except ConfigurationError:  # somebody else's, or damaged: nothing is known of it
                    continue
                workers, text = told.get("workers"), told.get("text")
                if note.path.stem in self._heard or not isinstance(workers, list):
                    continue
                if not set(map(str, workers)) <= {*ended}:
                    continue
                with contextlib.suppress(OSError):  # another `run` tells it, or may remove it
                    note.path.unlink()
                    if told.get("serious"):
                        self._say_over(str(text), str(told.get("began")))

    def _say_over(self, text: str, began: str) -> None:
        over = f"an error that began {began} is over: {text}"
        self._log(f"{PROGRAM}: {over}")
        document = {
            "time": timestamp(self._clock.now()),
            "level": "warning",
            "program": PROGRAM,
            "message": over,
        }
        self._say(json_line(document) if self._as_json else f"{PROGRAM}: {over}")

    def _is_news(self, message: Message) -> bool:
        """Whether it is to be printed. Notes that it was heard, and if so, when it was printed."""
        first = message.key not in self._heard
        self._heard.add(message.key)
        if self._directory is None:
            return first
        note, now = self._note(message.key), self._clock.now()
        try:
            told = note.read()
            if not told and sum(1 for _ in self._notes()) >= self._most_notes:
                return first
            due = is_over(now, str(told.get("printed")), REPEAT_SECONDS)
            news = first and (due or self._everything)
            document = {
                "text": message.text,
                "serious": message.serious,
                "began": told.get("began") or timestamp(now),
                "printed": timestamp(now) if news else told.get("printed"),
                "workers": sorted({*_names(told.get("workers")), message.worker}),
            }
            if document != told:
                note.write(document)
        except ConfigurationError:  # what cannot be remembered is told
            return first
        return news

    def _note(self, key: str) -> Note:
        return Note((self._directory or Path()) / f"{key}.json", "what was told")

    def _notes(self) -> Iterator[Note]:
        if self._directory is None:
            return
        names: list[Path] = []
        with contextlib.suppress(OSError):  # it is not there, vanished, or may not be listed
            names = sorted(self._directory.glob("*.json"))
        yield from (self._note(path.stem) for path in names)

    def _log(self, line: str) -> None:
        """Appends to the log; what cannot be logged is printed all the same, if it is news.

        Printable: somebody will read it in a terminal.
        """
        if self._directory is None:
            return
        path = self._directory.parent / "run.log"
        line = printable_lines(line)
        stamp = "" if logs.is_stamped(line) else f"{logs.stamp(self._clock.now())} "
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size > self._log_bytes:
                    path.replace(path.with_name("run.log.1"))
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o640)
            with open(descriptor, "ab", buffering=0) as file:
                file.write(f"{stamp}{line}\n".encode(errors="backslashreplace"))


def _names(workers: object) -> list[str]:
    return [str(name) for name in workers] if isinstance(workers, list) else []
