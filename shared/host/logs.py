"""Logs as text for people and cron, or as JSON lines; quiet unless something is worth reading.

Every message may carry fields (`extra={"vm": …}`); the text format appends the VM, the JSON format
keeps them all.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Final

from shared.host.printable import json_line, printable, printable_lines

#: Attributes that every log record has; whatever else a record carries was given as a field.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(*, verbosity: int, log_format: str, program: str) -> None:
    """Sends logs to stderr.

    `verbosity`: 0 shows warnings and errors, 1 what is done, 2 every command. `log_format`: text or
    json.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(program) if log_format == "json" else TextFormatter(program))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    logging.getLogger("filelock").setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """`2026-11-22 20:38:00Z vmbackup-worker: WARNING: web01: …`, one line a message."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        vm = f"{vm}: " if (vm := getattr(record, "vm", None)) else ""
        level = "" if record.levelno == logging.INFO else f"{record.levelname}: "
        message = printable_lines(record.getMessage()).replace("\n", "\n    ")
        text = f"{moment} {self._program}: {level}{printable(vm)}{message}"
        if record.exc_info:
            text += "\n" + printable_lines(self.formatException(record.exc_info))
        return text


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
