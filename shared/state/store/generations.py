"""Reading single generations, current and historic ones, also of a damaged database.

Reading takes no lock and relies on no version file: whether generations are files or directories is
seen, not believed.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shared.host.errors import DatabaseDamagedError, NoDatabaseError
from shared.nas.nas_errors import nas_error
from shared.nas.reading import list_fresh, read_file
from shared.state.store.bundle import BundleName, bundle_names
from shared.state.store.kept_generations import (
    OF_ONE_FILE,
    Region,
    bundles_in,
    read_bundle,
    regions,
)
from shared.state.store.layout import (
    generation_file,
    generation_name,
    generation_numbers,
    history_buckets,
    history_of,
    names_in,
)
from shared.state.store.snapshot import Snapshot, decode

#: How many generations below a damaged one are tried for something to show.
_TRIES: Final = 16
#: What to do where there is no state database.
NEW_OR_LOST: Final = (
    "is the right NAS mounted there? For a new one: vmbackup-admin init; if it is lost, and copies "
    "are there: vmbackup-admin statedb rebuild"
)


def no_database(root: Path) -> NoDatabaseError:
    """What is said where there is none: it may be a new NAS, a wrong one, or it is lost."""
    return NoDatabaseError(
        f"there is no state database in {root}",
        hint=NEW_OR_LOST,
    )


def numbers(root: Path) -> list[int]:
    """The numbers in `gen/`, oldest first. Raises `NoDatabaseError` or `NasError`."""
    try:
        return sorted(generation_numbers(list_fresh(root / "gen")))
    except (FileNotFoundError, NotADirectoryError):
        raise no_database(root) from None
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error


def kept(root: Path) -> list[Region]:
    """All that is kept, in `gen/` and in the history, oldest first.

    A directory of the history that cannot be read is passed over. Raises as `numbers` does.
    """
    history = root / "history"
    names = names_in(history)
    files = set(numbers(root))
    for bucket in history_buckets(names):
        files.update(generation_numbers(names_in(history / bucket)))
    return regions(bundle_names(names), sorted(files))


def oldest_number(root: Path) -> int:
    """The oldest number that is kept, in the history or in `gen/`; 0 if there is none."""
    oldest = next(iter(kept(root)), Region((), ()))
    return min((*(name.first for name in oldest.names), *oldest.files), default=0)


def read_number(root: Path, number: int) -> Snapshot | None:
    """Generation `number` from `gen/` or the history; None if it is in neither.

    Raises `DatabaseDamagedError`, `NasError`.
    """
    data = read_bytes(root, number)
    return None if data is None else decode(data, number)


def read_bytes(root: Path, number: int) -> bytes | None:
    """The bytes of generation `number`, from the history or from `gen/`; None if it is nowhere.

    Raises `NasError`, and `DatabaseDamagedError` if it is in a bundle that is damaged.
    """
    data, damaged = _from_bundles(root, number, bundles_in(root))
    if data is None:
        data = read_from_file(root, number)
    if data is None:  # it has gone into a bundle since that look, or the look itself has failed
        data, damaged = _from_bundles(root, number, _bundles(root))
    if data is None and damaged is not None:
        raise damaged
    return data


def _from_bundles(
    root: Path, number: int, names: Iterable[BundleName]
) -> tuple[bytes | None, DatabaseDamagedError | None]:
    """A generation out of the bundles, or the last one's damage that should have it."""
    damaged = None
    for name in names:
        if name.first <= number <= name.last:
            try:
                if (data := read_bundle(root, name).generation(number)) is not None:
                    return data, None
            except DatabaseDamagedError as error:
                damaged = error
    return None, damaged


def _bundles(root: Path) -> list[BundleName]:
    """The bundles; none only if there are none. Raises `NasError`."""
    try:
        return bundle_names(list_fresh(root / "history"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error


def read_from_file(root: Path, number: int) -> bytes | None:
    """The bytes of generation `number` if it has a file of its own, in `gen/` or in the history.

    Raises `NasError`, and `DatabaseDamagedError` if it is this one file that cannot be read.
    """
    name = generation_name(number)
    for directory in (root / "gen", history_of(root, number)):
        try:
            return read_file(generation_file(directory / name))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno in OF_ONE_FILE:
                raise _unreadable(number, str(error.strerror)) from error
            raise nas_error(error, f"use the state database in {root}") from error
    if any(name in names_in(directory) for directory in (root / "gen", history_of(root, number))):
        raise _unreadable(number, "nothing is in it")
    return None


def _unreadable(number: int, why: str) -> DatabaseDamagedError:
    return DatabaseDamagedError(f"generation {number} of the state database cannot be read: {why}")


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
