"""`vmtool-db-version`: which database this is, and what all hosts must agree on. Written once, by `init` or by a migration."""

import re
from dataclasses import dataclass
from typing import Final, cast

from shared.errors import DatabaseDamagedError, DatabaseVersionError
from shared.statedb.files import Primitive
from shared.statedb.snapshot import DATABASE_VERSION

#: How long a session may be silent before others take over what it holds, unless `init` was told otherwise.
DEFAULT_LEASE_SECONDS: Final = 300.0

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class DatabaseVersion:
    """The settings of one database. `repository` tells it from every other one."""

    tool_version: str
    repository: str
    lease_seconds: float
    primitive: Primitive
    database_version: str = DATABASE_VERSION

    def render(self) -> bytes:
        """The file's text."""
        return (
            f"TOOL_VERSION: {self.tool_version}\n"
            f"DB_VERSION: {self.database_version}\n"
            f"REPOSITORY: {self.repository}\n"
            f"LEASE_SECONDS: {self.lease_seconds:g}\n"
            f"PUBLISH: {self.primitive}\n"
        ).encode()


def parse(data: bytes) -> DatabaseVersion:
    """Reads the file. Raises `DatabaseVersionError` for a version that this program cannot use, `DatabaseDamagedError` for nonsense."""
    values: dict[str, str] = {}
    for line in data.decode("utf-8", errors="replace").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip(), value.strip())
    version = values.get("DB_VERSION", "")
    if not re.fullmatch(r"\d{1,9}\.\d{1,9}", version):
        raise _damaged(f"DB_VERSION is {version!r}")
    _check(version)
    if not _UUID.fullmatch(values.get("REPOSITORY", "")):
        raise _damaged("REPOSITORY is missing or is no UUID")
    try:
        lease = float(values.get("LEASE_SECONDS", ""))
    except ValueError:
        lease = 0
    if not 0 < lease < 1e6:
        raise _damaged("LEASE_SECONDS is missing or is no sensible number of seconds")
    if values.get("PUBLISH") not in ("link", "directory"):
        raise _damaged("PUBLISH is neither link nor directory")
    return DatabaseVersion(values.get("TOOL_VERSION", ""), values["REPOSITORY"], lease, cast("Primitive", values["PUBLISH"]), version)


def _check(version: str) -> None:
    major, minor = (int(part) for part in version.split("."))
    if (major, minor) == (1, 0):
        raise DatabaseVersionError(
            "the state database is of version 1.0, which has no generations",
            hint="`vmbackup-admin statedb migrate` takes it over; the old file is kept",
        )
    known = int(DATABASE_VERSION.split(".")[0])
    if major > known:
        raise DatabaseVersionError(
            f"the state database is of version {version}; this program knows up to {DATABASE_VERSION}", hint="update vmbackup on this host"
        )
    if major < known:
        raise DatabaseVersionError(
            f"the state database is of version {version}, which no release of this program wrote",
            hint="if it is not a vmbackup database, move the directory vmstate away and run `vmbackup-admin init`",
        )


def _damaged(what: str) -> DatabaseDamagedError:
    return DatabaseDamagedError(
        f"vmtool-db-version cannot be understood: {what}",
        hint="restore it from a backup of the NAS, or run `vmbackup-admin statedb check`, which rebuilds it from the generations",
    )
