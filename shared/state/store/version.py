"""`vmtool-db-version`: which database this is, and what all hosts must agree on.

Written by `init`, by a migration, by an upgrade.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from shared.host.errors import DatabaseDamagedError, DatabaseVersionError
from shared.state import formats
from shared.state.store.layout import Primitive

#: How long a session may be silent before others take over what it holds, unless `init` was told
#: otherwise.
DEFAULT_LEASE_SECONDS: Final = 300.0
#: No command sets a longer one: whoever watches for it would wait for days. Nor does any set one
#: near this: a session would write its heartbeat without a pause, and be dead to others at once.
LONGEST_LEASE_SECONDS: Final = 3600.0
SHORTEST_LEASE_SECONDS: Final = 1.0

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REBUILT: Final = re.compile(r"[0-9TZ:-]{20}-[0-9a-f]{8}")
_LEASE: Final = re.compile(r"LEASE_SECONDS:\s*([0-9.]{1,12})\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DatabaseVersion:
    """The settings of one database.

    `repository` tells it from every other one; its format is that of its newest generation.
    `rebuilt` tells one that was made anew from the copies from what had that repository before:
    when, and some random digits. Empty: `init` made it.
    """

    tool_version: str
    repository: str
    lease_seconds: float
    primitive: Primitive
    database_version: str = formats.NEWEST
    rebuilt: str = ""

    def render(self) -> bytes:
        """The file's text."""
        return (
            f"TOOL_VERSION: {self.tool_version}\n"
            f"DB_VERSION: {self.database_version}\n"
            f"REPOSITORY: {self.repository}\n"
            f"LEASE_SECONDS: {self.lease_seconds:g}\n"
            f"PUBLISH: {self.primitive}\n" + (f"REBUILT: {self.rebuilt}\n" if self.rebuilt else "")
        ).encode()


def parse(data: bytes) -> DatabaseVersion:
    """Reads the file, also one of a newer format, as far as it is understood.

    Raises `DatabaseVersionError` for a version that this program cannot read,
    `DatabaseDamagedError` for nonsense.
    """
    values = _values(data)
    version = values.get("DB_VERSION", "")
    if not formats.is_format(version):
        raise _damaged(f"DB_VERSION is {version!r}")
    _refuse_older(version)
    try:
        return _settings(values, version)
    except DatabaseDamagedError:
        formats.require_known(version)
        raise


def format_of(data: bytes) -> str | None:
    """The format that the file names, whatever else it says; None if it names none."""
    found = _values(data).get("DB_VERSION", "")
    return found if formats.is_format(found) else None


def _values(data: bytes) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for line in data.decode("utf-8", errors="replace").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip(), value.strip())
    return values


def _settings(values: Mapping[str, str], version: str) -> DatabaseVersion:
    if not is_repository(values.get("REPOSITORY", "")):
        raise _damaged("REPOSITORY is missing or is no UUID")
    try:
        lease = float(values.get("LEASE_SECONDS", ""))
    except ValueError:
        lease = 0
    if not _is_lease(lease):
        raise _damaged("LEASE_SECONDS is missing or is no sensible number of seconds")
    if values.get("PUBLISH") not in ("link", "directory"):
        raise _damaged("PUBLISH is neither link nor directory")
    return DatabaseVersion(
        values.get("TOOL_VERSION", ""),
        values["REPOSITORY"],
        lease,
        cast("Primitive", values["PUBLISH"]),
        version,
        rebuilt_in(values.get("REBUILT", "")),
    )


def is_repository(text: str) -> bool:
    """Whether `text` can be the id of a repository."""
    return _UUID.fullmatch(text) is not None


def rebuilt_in(text: str) -> str:
    """What `text` says of when the database was made anew, if a program wrote that; else empty."""
    return text if _REBUILT.fullmatch(text) else ""


def lease_in(text: str) -> float:
    """The lease time that a damaged file still tells; 0 if it tells none that `parse` takes."""
    found = _LEASE.search(text)
    with contextlib.suppress(ValueError):
        seconds = float(found[1]) if found else 0.0
        return seconds if _is_lease(seconds) else 0.0
    return 0.0


def _is_lease(seconds: float) -> bool:
    return SHORTEST_LEASE_SECONDS <= seconds <= LONGEST_LEASE_SECONDS


def _refuse_older(version: str) -> None:
    major, minor = (int(part) for part in version.split("."))
    if (major, minor) == (1, 0):
        raise DatabaseVersionError(
            "the state database is of version 1.0, which has no generations",
            hint="`vmbackup-admin statedb migrate` takes it over; the old file is kept",
        )
    if major < formats.major(formats.FIRST):
        raise DatabaseVersionError(
            f"the state database is of version {version}, which no release of this program wrote",
            hint=(
                "if it is not a vmbackup database, move the directory vmstate away and run "
                "`vmbackup-admin init`"
            ),
        )


def _damaged(what: str) -> DatabaseDamagedError:
    return DatabaseDamagedError(
        f"vmtool-db-version cannot be understood: {what}",
        hint=(
            "restore it from a backup of the NAS, or run `vmbackup-admin statedb check`, which "
            "rebuilds it from the generations"
        ),
    )
