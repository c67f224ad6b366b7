"""How much a host may read of copies in a day."""

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Literal

from shared.host.errors import ConfigurationError
from shared.host.notes import Note


class Allowance:
    """How much this host has `verified` or `rehearsed` today, in a note of its own.

    A share of `limit` bytes for each day of UTC, across all runs.
    """

    def __init__(
        self, state_directory: Path, limit: int, what: Literal["verified", "rehearsed"]
    ) -> None:
        self._note = Note(state_directory / f"{what}-today.json", f"how much was {what} today")
        self._limit = limit

    def take(self, size: int, now: datetime) -> bool:
        """Whether a copy of so many bytes may be read today; if so, that is noted before it is.

        The first copy of a day may be larger than the limit, or it would never be read. Raises
        `ConfigurationError` if the note cannot be kept.
        """
        if not self.reaches(size, now):
            return False
        today = _day(now)
        self._note.write({"day": today, "bytes": self._used(today) + size})
        return True

    def reaches(self, size: int, now: datetime) -> bool:
        """Whether a copy of so many bytes may be read today. Notes nothing."""
        used = self._used(_day(now))
        return not used or used + size <= self._limit

    def _used(self, today: str) -> int:
        with contextlib.suppress(ConfigurationError):  # one that cannot be read is replaced
            document = self._note.read()
            used = document.get("bytes")
            if document.get("day") == today and type(used) is int and used > 0:
                return used
        return 0


def _day(now: datetime) -> str:
    return now.strftime("%Y-%m-%d")
