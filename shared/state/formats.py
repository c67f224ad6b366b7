"""The formats of a state database: which there are, and what this program may do with each.

Each generation names its format in its first line; the newest one decides for the database, and the
next is written in the format of the one before. `vmtool-db-version` names the format, too, for
programs that look there before they do anything. A program works with any minor version of the
major ones that it knows. Of newer ones it reads what it understands, and writes nothing.
"""

import re
from typing import Final

from shared.host.errors import DatabaseVersionError

#: The first format with generations. Hosts with program 0.1 know no other one.
FIRST: Final = "1.1"
#: The format of a new database: written only when no host runs program 0.1 any more. It has the
#: same lines.
NEWEST: Final = "2.0"
#: The first word of a generation, before its format.
MAGIC: Final = "vmbackup-state"
_VERSION: Final = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}")


def named(line: str) -> str | None:
    """The format that the first line of a generation names; None if it names none."""
    magic, _, version = line.partition(" ")
    return version if magic == MAGIC and is_format(version) else None


def is_format(text: str) -> bool:
    """Whether `text` names a format, known or not."""
    return _VERSION.fullmatch(text) is not None


def major(version: str) -> int:
    """The first number of a format: programs that do not know it must not write."""
    return int(version.partition(".")[0])


def is_newer(version: str) -> bool:
    """Whether a newer program than this one is needed to write it."""
    return major(version) > major(NEWEST)


def is_older(version: str) -> bool:
    """Whether `vmbackup-admin statedb upgrade` has something to do."""
    return major(version) < major(NEWEST)


def too_new(version: str) -> DatabaseVersionError:
    """The error of a program that is too old to write this format."""
    return DatabaseVersionError(
        f"the state database is of version {version}; this program knows up to {NEWEST}",
        hint="update vmbackup on this host",
    )


def require_known(version: str) -> None:
    """Raises `DatabaseVersionError` for a format that this program must not write."""
    if is_newer(version):
        raise too_new(version)
