"""The result of one check."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from shared.errors import VmBackupError

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was examined, how it is, what was seen, and what to do if it is not well."""

    name: str
    verdict: Verdict
    seen: str
    hint: str = ""


def guarded(name: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Runs `checks`; what they raise is a failed check `name` instead of the end of the examination."""
    try:
        yield from checks()
    except VmBackupError as error:
        yield Check(name, "fail", error.message, error.hint)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        yield Check(name, "fail", f"{error.strerror or error}{place}", "look at the rights of that file or directory")
