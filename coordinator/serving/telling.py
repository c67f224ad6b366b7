"""What a server says to the command that started it."""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from shared.host.errors import VmBackupError


def say(message: Mapping[str, Any]) -> None:
    """One line for the command that started this; then its pipe is closed."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.close(nothing)


def say_why(error: Exception) -> None:
    """That the server does not start, and why."""
    if isinstance(error, VmBackupError):
        say({"error": error.message, "hint": error.hint, "code": int(error.exit_code)})
    else:
        say({"error": f"{type(error).__name__}: {error}", "hint": "", "code": 1})
