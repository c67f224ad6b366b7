"""Does the NAS give names back as they were written? Tried, not guessed.

A copy's name has capitals, a VM's directory letters of all scripts, and both are found by listing.
A file system that folds the case of what it lists, or brings accents into another form, hides every
copy from those who wrote it. One that only ignores case when a name is asked for does no harm.
"""

import contextlib
import os
import secrets
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from shared.host.errors import NasError
from shared.nas.nas_errors import reported
from shared.nas.reading import list_fresh
from shared.nas.writing import remove_tree, write_new_file

#: Directories at the top of the NAS in which it is tried out; one that an interrupted trial left is
#: removed by `doctor`.
TRIAL: Final = ".vmbackup-doctor."

#: Names as copies and VMs have them: capitals, accents, and scripts that are written in two ways.
#: No two are alike but for case.
WRITTEN: Final = (
    "20261122T203800Z-1.OvA",
    "Web Server",
    "caf\u00e9",
    "\u00c4rger",
    "\ud55c\uae00",
    "\u65e5\u672c",
)

HINT: Final = (
    "mount it so that names keep their case and their accents: without ignore_case "
    "(lowntfs-3g), with utf8 (vfat, SMB: iocharset=utf8), "
    "without a folding or normalising file system on the server"
)


def changed_names(place: Path, listing: Callable[[Path], list[str]] = list_fresh) -> str:
    """What became of names that were written in `place`, an empty directory, in words.

    Empty if all are listed as they were written.

    Leaves the files there. Raises OSError if nothing can be written there at all.
    """
    refused = []
    for name in WRITTEN:
        try:
            write_new_file(place / name, b"name\n")
        except (OSError, UnicodeError):
            refused.append(name)
    if len(refused) == len(WRITTEN):
        write_new_file(place / "plain", b"")  # raises what is really wrong
    listed = set(listing(place))
    lost = [name for name in WRITTEN if name not in listed and name not in refused]
    others = sorted(listed.difference(WRITTEN, {"plain"}))
    if refused:
        return f"it takes no file called {refused[0]!r}"
    return (
        f"{lost[0]!r} was written, and listed is {', '.join(map(repr, others)) or 'nothing'}"
        if lost
        else ""
    )


def require_names_kept(mountpoint: Path) -> None:
    """Tries it out at the top of a NAS on which nobody works yet.

    Raises `NasError` if a name comes back otherwise.

    Leaves nothing behind, also not what killed trials had left.
    """
    with reported(f"try out how {mountpoint} keeps names"):
        for name in list_fresh(mountpoint):
            if name.startswith(TRIAL):
                with contextlib.suppress(OSError):
                    remove_tree(mountpoint / name)
        with trial_directory(mountpoint) as place:
            wrong = changed_names(place)
    if wrong:
        raise NasError(
            f"the NAS at {mountpoint} does not give names back as they were written: {wrong}",
            hint=HINT,
        )


@contextlib.contextmanager
def trial_directory(mountpoint: Path) -> Iterator[Path]:
    """A directory of its own at the top of the NAS, which goes again.

    Raises OSError if it cannot be made.
    """
    place = mountpoint / f"{TRIAL}{secrets.token_hex(6)}"
    os.mkdir(place, 0o700)
    try:
        yield place
    finally:
        with contextlib.suppress(OSError):
            remove_tree(place)


def folded(name: str) -> str:
    """Equal for names that differ by case, or by how their accents are written, only."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).casefold()
