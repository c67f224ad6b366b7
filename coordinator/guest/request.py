"""What `vmbackup-admin files` was asked for: of which copy, and what of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.copies_site import CopiesSite
from coordinator.guest.reader_process import GuestReader
from shared.host.errors import UsageError
from shared.output import warn


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: of which copy, and what of it."""

    opened: CopiesSite
    vm: str
    stamp: str
    reader: GuestReader
    path: str | None
    warnings: Sequence[str]
    as_json: bool

    @property
    def names(self) -> list[str]:
        """The components of the path."""
        names = [name for name in (self.path or "").split("/") if name not in ("", ".")]
        if ".." in names:
            raise UsageError(
                "PATH is one in the guest, without `..`", hint="write it as it is seen from /"
            )
        return names

    def document(self) -> dict[str, Any]:
        """What every answer has."""
        return {
            "vm": self.vm,
            "stamp": self.stamp,
            "database": self.opened.database,
            "warnings": [*self.opened.warnings, *self.warnings],
        }


def tell_note(at: Mapping[str, Any]) -> None:
    """Warns of what the file system at that place is known to lack."""
    if at.get("note"):
        warn(f"{at['type']} of {at['place']}: {at['note']}")
