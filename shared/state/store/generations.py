"""Reading single generations, current and historic ones, also of a damaged database.

Reading takes no lock and relies on no version file: whether generations are files or directories is
seen, not believed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.host.errors import DatabaseDamagedError, NoDatabaseError
from shared.nas.errors import nas_error
from shared.nas.reading import list_fresh, read_file
from shared.state.store.layout import (
    generation_file,
    generation_name,
    generation_numbers,
    history_of,
)
from shared.state.store.snapshot import Snapshot, decode

#: How many generations below a damaged one are tried for something to show.
_TRIES: Final = 16


def no_database(root: Path) -> NoDatabaseError:
    """What is said where there is none: it may be a new NAS, a wrong one, or it is lost."""
    return NoDatabaseError(
        f"there is no state database in {root}",
        hint="is the right NAS mounted there? For a new one: vmbackup-admin init; if it is "
        "lost, and copies are there: vmbackup-admin statedb rebuild",
    )


def numbers(root: Path) -> list[int]:
    """The numbers in `gen/`, oldest first. Raises `NoDatabaseError` or `NasError`."""
    try:
        return sorted(_numbers(root / "gen"))
    except (FileNotFoundError, NotADirectoryError):
        raise no_database(root) from None
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error


def historic_numbers(root: Path) -> Iterator[int]:
    """The numbers in `history/`, newest first. A directory that cannot be read is passed over."""
    for bucket in reversed(_buckets(root)):
        yield from sorted(_numbers(root / "history" / bucket, missing_ok=True), reverse=True)


def oldest_number(root: Path) -> int:
    """The oldest number that is kept, in the history or in `gen/`; 0 if there is none."""
    for bucket in _buckets(root):
        if found := _numbers(root / "history" / bucket, missing_ok=True):
            return min(found)
    return min(numbers(root), default=0)


def read_number(root: Path, number: int) -> Snapshot | None:
    """Generation `number` from `gen/` or the history; None if it is in neither.

    Raises `DatabaseDamagedError`, `NasError`.
    """
    name = generation_name(number)
    for directory in (root / "gen", history_of(root, number)):
        try:
            data = read_file(generation_file(directory / name))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise nas_error(error, f"use the state database in {root}") from error
        return decode(data, number)
    return None


def newest_readable(root: Path) -> Snapshot:
    """The newest generation that can be read, to show something while the newest is damaged.

    Raises `DatabaseDamagedError`.
    """
    for number in list(reversed(numbers(root)))[:_TRIES]:
        with contextlib.suppress(DatabaseDamagedError):
            snapshot = read_number(root, number)
            if snapshot is not None:
                return snapshot
    raise DatabaseDamagedError(
        f"none of the newest {_TRIES} generations in {root} can be read",
        hint=(
            "restore the directory vmstate from a backup of the NAS, or make it anew of the "
            "copies: `vmbackup-admin statedb rebuild`; the copies are not touched by this"
        ),
    )


def follows(snapshot: Snapshot, before: Snapshot) -> bool:
    """Whether `snapshot` is what was committed on `before`."""
    return (
        snapshot.header.previous == before.checksum
        and snapshot.header.repository == before.header.repository
    )


def _numbers(directory: Path, *, missing_ok: bool = False) -> list[int]:
    names = names_in(directory) if missing_ok else list_fresh(directory)
    return list(generation_numbers(names))


def _buckets(root: Path) -> list[str]:
    """The directories of the history, oldest first."""
    return sorted(name for name in names_in(root / "history") if name.isascii() and name.isdigit())


def names_in(directory: Path) -> list[str]:
    """The names in a directory; none if it cannot be read."""
    try:
        return list_fresh(directory)
    except OSError:
        return []
