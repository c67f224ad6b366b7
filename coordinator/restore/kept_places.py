"""Where nothing is restored to: what is kept on the NAS for the database and for copies."""

import os
from pathlib import Path

from shared.copies.names import parse_final
from shared.host.configuration import Nas
from shared.host.errors import UsageError
from shared.nas.reading import list_fresh


def refuse_kept_place(nas: Nas, folder: Path) -> None:
    """Raises `UsageError` if `folder` lies in the state database, the archive, or among copies.

    A VM there would be moved, or its database set aside, with them. The mount point may be a link.
    The archive is told by its name: one that is not there is not waited for.
    """
    top, place = Path(os.path.realpath(nas.mountpoint)), Path(os.path.realpath(folder))
    places = (place, Path(os.path.abspath(folder)))
    kept = (
        ("the state database", (Path(os.path.realpath(nas.state)),)),
        ("the archive", (nas.archive, _below(nas.archive, nas.mountpoint, top))),
    )
    what = next(
        (
            word
            for word, names in kept
            if any(each.is_relative_to(name) for each in places for name in names)
        ),
        "",
    )
    if not what and place != top and place.is_relative_to(top):
        directory = top / place.relative_to(top).parts[0]
        what = "the directory of a VM" if _has_copies(directory) else ""
    if what:
        raise UsageError(
            f"{folder} lies in {what}, where nothing else belongs", hint="another place: --to"
        )


def _below(path: Path, link: Path, top: Path) -> Path:
    """The same place, by where the link leads if it is named by that."""
    return top / path.relative_to(link) if path.is_relative_to(link) else path


def _has_copies(directory: Path) -> bool:
    try:
        return any(parse_final(name) for name in list_fresh(directory))
    except OSError:
        return False
