"""Logs as text for people and cron, or as JSON lines; quiet unless something is worth reading.

Every message may carry fields (`extra={"vm": …}`); the text format appends the VM, the JSON format
keeps them all.
"""

import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from shared.host.printable import json_line, printable, printable_lines

#: Attributes that every log record has; whatever else a record carries was given as a field.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: What a person who waits at a terminal wants to know, and cron does not: what is waited for.
NOTICE: Final = 25
#: Set for the workers of a `run` that somebody looks at.
AT_TERMINAL: Final = "VMBACKUP_AT_TERMINAL"
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ ")


def set_up(*, verbosity: int, log_format: str, program: str) -> None:
    """Sends logs to stderr.

    `verbosity`: 0 shows warnings and errors, and at a terminal what is waited for, 1 what is done,
    2 every command. `log_format`: text or json.
    """
    logging.addLevelName(NOTICE, "NOTICE")
    least = NOTICE if sys.stderr.isatty() or os.environ.get(AT_TERMINAL) else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(program) if log_format == "json" else TextFormatter(program))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel((least, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    logging.getLogger("filelock").setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """`2026-11-22 20:38:00Z vmbackup-worker: WARNING: web01: …`, one line a message."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        text = _text(
            stamp(datetime.fromtimestamp(record.created, UTC)),
            self._program,
            record.levelname,
            getattr(record, "vm", None),
            record.getMessage(),
        )
        if record.exc_info:
            text += "\n" + printable_lines(self.formatException(record.exc_info))
        return text


def stamp(moment: datetime) -> str:
    """A moment as lines of text begin with it."""
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def is_stamped(line: str) -> bool:
    """Whether a line of text begins with a moment."""
    return _STAMP.match(line) is not None


def text_of(document: Mapping[str, Any]) -> str:
    """What `JsonFormatter` wrote, as `TextFormatter` writes it. Raises ValueError or KeyError."""
    text = _text(
        stamp(datetime.fromisoformat(document["time"])),
        str(document["program"]),
        str(document["level"]).upper(),
        document.get("vm"),
        str(document["message"]),
    )
    exception = document.get("exception")
    return f"{text}\n{printable_lines(str(exception))}" if exception else text


def _text(moment: str, program: str, level: str, vm: object, message: str) -> str:
    about = f"{vm}: " if vm else ""
    weight = "" if level in ("INFO", "NOTICE") else f"{level}: "
    lines = printable_lines(message).replace("\n", "\n    ")
    return f"{moment} {program}: {weight}{printable(about)}{lines}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, program, message, and the record's fields."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "program": self._program,
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json_line(document)
