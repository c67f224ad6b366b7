"""Where the archive directory may be: apart from the NAS's own directories and those of VMs.

An archive that is the mount point, `vmstate` or the directory of a VM under another name would be
fatal: a copy is moved there, is found to be there already, and goes. So before anything is moved,
places are compared as what they are, at last by experiment.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from shared.copies.names import parse_final
from shared.host.configuration import Nas
from shared.host.errors import ConfigurationError
from shared.nas.mount import is_there
from shared.nas.nas_errors import reported
from shared.nas.overlap import Relation, first_name_below, relations, seen_in
from shared.nas.reading import list_fresh

_APART: Final = frozenset({Relation.APART})
_BELOW: Final = frozenset({Relation.APART, Relation.INSIDE})
_HINT: Final = (
    "archived copies need a directory of their own: correct nas.archive_directory "
    "(or ARCHIVE_DIR), or the link or mount that leads there"
)


def require_apart(nas: Nas, directory: str = "") -> None:
    """Make sure that the archive directory is apart from all others, by looks alone.

    With `directory`, also from that VM's. Raises `ConfigurationError` that says which two places
    are one, `NasError` if they cannot be looked at.
    """
    is_there(nas.archive, nas.probe_seconds)  # what hangs must not hang this process
    with reported(f"look where the archive directory {nas.archive} is"):
        if os.path.islink(nas.archive):
            leads = os.path.realpath(nas.archive)
            raise ConfigurationError(
                f"nas.archive_directory: {nas.archive} is a symbolic link to {leads}",
                hint="name that directory itself",
            )
        for place, other, allowed in _pairs(nas, directory):
            if wrong := relations(place, other) - allowed:
                raise _refused(place, other, max(wrong, key=_gravity))


def require_no_vm(nas: Nas, directories: Collection[str] = ()) -> None:
    """Make sure that the archive directory is not a VM's, nor in one.

    A VM's directory is one that has copies in it, or one of `directories` at the top of the NAS.
    Ask `require_apart` first. Nothing is written. Raises `ConfigurationError`, `NasError`.
    """
    with reported(f"look where the archive directory {nas.archive} is"):
        names = sorted(first_name_below(nas.mountpoint, nas.archive))
        for place in dict.fromkeys([nas.archive, *(nas.mountpoint / name for name in names)]):
            copies = _has_copies(place)
            if copies or (place.name in directories and place.parent == nas.mountpoint):
                why = "it has copies in it" if copies else "the database says so"
                how = (
                    "is the directory of a VM"
                    if place == nas.archive
                    else f"is, or is in, the directory of a VM, {place}"
                )
                raise ConfigurationError(
                    f"nas.archive_directory: {nas.archive} {how}: {why}; nothing was changed",
                    hint=_HINT,
                )


def _has_copies(place: Path) -> bool:
    """Raises OSError."""
    try:
        return any(parse_final(name) for name in list_fresh(place))
    except (FileNotFoundError, NotADirectoryError):
        return False


def refuse_copies_on_top(nas: Nas) -> None:
    """Refuse a mount point that is the directory of a VM: for a new database.

    Raises `ConfigurationError` if copies lie directly in it.
    """
    with reported(f"look what is in {nas.mountpoint}"):
        if _has_copies(nas.mountpoint):
            raise ConfigurationError(
                f"nas.mountpoint: {nas.mountpoint} is the directory of a VM: it has copies in it",
                hint="name the directory that holds the directories of all VMs",
            )


def prove_apart(nas: Nas, directory: str = "") -> None:
    """Make sure that the archive directory is apart from all others, by looks and by experiment.

    What is written in one directory must not appear in another, nor the other way round. Those
    that are not there are left out. Leaves nothing behind. Raises like `require_apart` and
    `require_no_vm`.
    """
    require_apart(nas, directory)
    require_no_vm(nas)
    with reported(f"try out where the archive directory {nas.archive} is"):
        archived, live = _present(_archived(nas, directory)), _present(_live(nas, directory))
        below = (
            []
            if directory or not archived
            else _present([nas.archive / name for name in list_fresh(nas.archive)])
        )
        for written, looked in ((archived, [*live, nas.state]), (live, [*archived, *below])):
            for place in written:
                if (found := seen_in(place, looked)) is not None:
                    raise _refused(place, found, Relation.SAME)


def _pairs(nas: Nas, directory: str) -> Iterator[tuple[Path, Path, frozenset[Relation]]]:
    """Which places are compared, and what the first may be to the second."""
    for archived in _archived(nas, directory):
        yield archived, nas.mountpoint, _BELOW
        yield archived, nas.state, _APART
        if directory:
            yield archived, nas.mountpoint / directory, _APART


def _archived(nas: Nas, directory: str) -> list[Path]:
    return [nas.archive, *([nas.archive / directory] if directory else [])]


def _live(nas: Nas, directory: str) -> list[Path]:
    return [nas.mountpoint, *([nas.mountpoint / directory] if directory else [])]


def _present(places: Sequence[Path]) -> list[Path]:
    return [place for place in places if os.path.isdir(place)]


def _gravity(found: Relation) -> int:
    return [Relation.APART, Relation.INSIDE, Relation.CONTAINS, Relation.SAME].index(found)


def _refused(place: Path, other: Path, found: Relation) -> ConfigurationError:
    if place == other:
        said = (
            f"nas.archive_directory: {place} is used for something else already; nothing was "
            f"changed"
        )
        return ConfigurationError(said, hint=_HINT)
    real = (os.path.realpath(place), os.path.realpath(other))
    how = "" if real == (str(place), str(other)) else f" (they are {real[0]} and {real[1]})"
    return ConfigurationError(
        f"nas.archive_directory: {place} {found} {other}{how}; nothing was changed", hint=_HINT
    )
