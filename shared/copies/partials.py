"""Remove partial files: those of claims that are over, of one claim, and of interrupted moves."""

from collections.abc import Collection
from pathlib import Path

from shared.copies.copy_files import NasFiles
from shared.copies.copying import Route
from shared.copies.names import parse_partial
from shared.nas.nas_errors import reported
from shared.nas.reading import look


def remove_partials(
    files: NasFiles, directory: Path, live: Collection[int], newest: int
) -> list[str]:
    """Removes the partial files of claims that are over and returns their names.

    `live` are the claims of the newest known generation of the database, `newest` the highest claim
    number given out in it: a partial file with a higher one belongs to a claim made since, and
    stays. The claim of an intent that is not done yet must be in `live`. Raises `NasError`.
    """
    removed = []
    with reported(f"remove partial files from {directory}"):
        for name, entry in look(directory).items():
            partial = parse_partial(name)
            if partial and entry.is_file and partial.claim <= newest and partial.claim not in live:
                files.remove(directory, name)
                removed.append(name)
        if removed:
            files.sync_directory(directory)
    return sorted(removed)


def remove_own_partials(files: NasFiles, directory: Path, claim: int) -> list[str]:
    """Removes the partial files of one claim: for its holder, after an export that failed.

    Raises `NasError`.
    """
    with reported(f"remove partial files from {directory}"):
        mine = sorted(
            name
            for name, entry in look(directory).items()
            if entry.is_file and (p := parse_partial(name)) and p.claim == claim
        )
        for name in mine:
            files.remove(directory, name)
        if mine:
            files.sync_directory(directory)
    return mine


def remove_partials_of_moves(files: NasFiles, route: Route) -> None:
    """What earlier, interrupted moves (claims up to ours) left at the target.

    Nobody else writes there while the VM is claimed.
    """
    for name, entry in look(route.target).items():
        partial = parse_partial(name)
        if (
            partial
            and entry.is_file
            and partial.claim <= route.claim
            and partial.claim not in route.live
        ):
            files.remove(route.target, name)
