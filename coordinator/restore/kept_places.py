"""Where nothing is restored to: what is kept on the NAS for the database and for copies."""

import os
from pathlib import Path

from shared.copies.names import parse_final
from shared.host.configuration import Nas
from shared.host.errors import UsageError
from shared.nas.reading import list_fresh


def refuse_kept_place(nas: Nas, folder: Path) -> None:
    """Raises `UsageError` if `folder` lies in the state database, the archive, or among copies.

    A VM there would be moved, or its database set aside, with them. Told by its name: an archive
    that is not there is not waited for.
    """
    place = Path(os.path.realpath(folder))
    what = next(
        (
            word
            for word, kept in (("the state database", nas.state), ("the archive", nas.archive))
            if place.is_relative_to(kept)
        ),
        "",
    )
    if not what and place != nas.mountpoint and place.is_relative_to(nas.mountpoint):
        top = nas.mountpoint / place.relative_to(nas.mountpoint).parts[0]
        what = "the directory of a VM" if _has_copies(top) else ""
    if what:
        raise UsageError(
            f"{folder} lies in {what}, where nothing else belongs", hint="another place: --to"
        )


def _has_copies(directory: Path) -> bool:
    try:
        return any(parse_final(name) for name in list_fresh(directory))
    except OSError:
        return False
