"""The archive's marker: a file that shows that the archive is mounted, and whose it is.

It names the repository which archives there.

An archive may be a mount of its own, in the NAS or elsewhere. While that is not mounted there is an
empty directory in its place, which looks like an archive without copies, and would be filled.
"""

import contextlib
import errno
import os
import re
import secrets
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from shared.copies.archive_location import require_apart, require_no_vm
from shared.copies.copy_files import NasFiles, write_file
from shared.host.configuration import STATE_DIRECTORY, Nas
from shared.host.errors import ConfigurationError, NasError
from shared.nas.nas_errors import reported
from shared.nas.overlap import on_one_mount
from shared.nas.reading import look, read_file

#: Lies in the archive directory.
ARCHIVE_MARKER: Final = ".vmbackup-archive"
_REPOSITORY: Final = re.compile(r"[0-9a-f-]{36}")
_SHOWN: Final = 5
#: More writers than there are at the same time.
_ATTEMPTS: Final = 16


def check_archive(
    nas: Nas,
    repository: str,
    *,
    known: Callable[[], bool],
    lost: Callable[[], Collection[str]],
    archived: Callable[[], int] = lambda: 0,
    directories: Collection[str] = (),
) -> bool:
    """Make sure that the archive is apart from all others and belongs to this repository.

    Returns whether it holds the marker.

    It must hold the marker if it is `known` to have one, lies outside of the NAS, or is a mount of
    its own. Elsewhere, in what older programs made, it is believed without unless the directories
    of VMs are `lost` that should be in it. With its marker it is another one if all are lost of so
    many that are `archived`. One that is not there yet is as good as an empty one. `directories`
    are those of VMs: none is an archive. Raises `ConfigurationError`, `NasError` that says what is
    missing.
    """
    require_apart(nas)
    with reported(f"look at the archive directory {nas.archive}"):
        found = _read(nas)
        if found and found != repository:
            raise _foreign(nas, found)
        if found:
            wrong = _another(nas, sorted(lost()), archived())
        elif is_elsewhere(nas) or known():
            wrong = _unmarked(nas, repository, f"has no {ARCHIVE_MARKER}")
        elif missing := sorted(lost()):
            wrong = _unmarked(
                nas,
                repository,
                f"lacks the copies of VMs that are ARCHIVED (directories {_names(missing)})",
            )
        else:
            wrong = None
    if wrong is not None:
        require_no_vm(nas, directories)  # no hint how to make an archive of that
        raise wrong
    return bool(found)


def named_repository(nas: Nas) -> str:
    """The repository that the marker in the archive directory names; empty if there is none.

    It says which NAS this is when the state database does not. Raises `NasError`.
    """
    with reported(f"look at the archive directory {nas.archive}"):
        found = _read(nas)
    return found if _REPOSITORY.fullmatch(found) else ""


def require_ours_or_new(nas: Nas, repository: str | None) -> None:
    """Make sure that the archive holds no marker of another repository.

    `repository` None: one that is not made yet. For whoever makes a repository. Raises `NasError`,
    `ConfigurationError`.
    """
    require_apart(nas)
    with reported(f"look at the archive directory {nas.archive}"):
        found = _read(nas)
    if found and found != repository:
        raise _foreign(nas, found)
    require_no_vm(nas)


def refuse_archive(nas: Nas, *, above: bool) -> None:
    """Refuse a mount point that is an archive: for whoever makes a database there.

    Also one that lies in an archive, if what is `above` counts: not for who had one there before.
    What is there counts, moves and goes as the repository has it whose archive it is. Raises
    `ConfigurationError`, `NasError`.
    """
    with reported(f"look where {nas.mountpoint} is"):
        for place in _places(nas)[: None if above else 1]:
            if os.path.lexists(place / ARCHIVE_MARKER):
                marker = shlex.quote(str(place / ARCHIVE_MARKER))
                gone = f"; if that repository is gone for good: remove {marker}"
                raise _taken(nas, place, "an archive of vmbackup", gone)


def refuse_nas(nas: Nas) -> None:
    """Refuse a mount point in the NAS of another repository: for a new database. Raises likewise.

    It may be the directory of a VM, or be taken for one.
    """
    with reported(f"look where {nas.mountpoint} is"):
        for place in _places(nas)[1:]:
            if os.path.lexists(place / STATE_DIRECTORY / "vmtool-db-version"):
                raise _taken(nas, place, "the NAS of another state database")


def _places(nas: Nas) -> list[Path]:
    """The mount point, and the directories above it."""
    real = Path(os.path.realpath(nas.mountpoint))
    return [real, *real.parents]


def _taken(nas: Nas, place: Path, what: str, otherwise: str = "") -> ConfigurationError:
    how = "is" if os.path.realpath(nas.mountpoint) == str(place) else f"lies in {place}, which is"
    return ConfigurationError(
        f"nas.mountpoint: {nas.mountpoint} {how} {what}; nothing was changed",
        hint=f"name a directory outside of it: each repository needs its own{otherwise}",
    )


def prepare_archive(files: NasFiles, nas: Nas, repository: str) -> None:
    """Make the archive directory, if it is to be on the NAS, and write its marker.

    One elsewhere must exist. For whoever has made sure that it is there (`check_archive`) or makes
    the repository. May be repeated. Raises `NasError`.
    """
    require_ours_or_new(nas, repository)
    with reported(f"prepare the archive directory {nas.archive}"):
        if nas.archive.is_relative_to(nas.mountpoint):
            for directory in [
                *reversed(nas.archive.relative_to(nas.mountpoint).parents),
                nas.archive.relative_to(nas.mountpoint),
            ][1:]:
                files.make_directory(nas.mountpoint / directory)
        if not _read(nas):
            _write(files, nas, repository)


def is_elsewhere(nas: Nas) -> bool:
    """Whether the archive is outside of the NAS, or a mount of its own.

    Then it may be missing while the NAS is there. Raises OSError.
    """
    inside = Path(os.path.realpath(nas.archive)).is_relative_to(os.path.realpath(nas.mountpoint))
    return not inside or not on_one_mount(nas.archive, nas.mountpoint)


def _write(files: NasFiles, nas: Nas, repository: str) -> None:
    """Write the marker under a private name first, so that nobody reads half of it.

    What killed writers left is removed; a writer whose file was removed so begins again.
    """
    temporary = f"{ARCHIVE_MARKER}.{secrets.token_hex(6)}"
    for name in look(nas.archive):
        if name.startswith(f"{ARCHIVE_MARKER}."):
            files.remove(nas.archive, name)
    for _ in range(_ATTEMPTS):
        write_file(files, nas.archive, temporary, f"{repository}\n".encode())
        with contextlib.suppress(FileNotFoundError):
            files.rename(nas.archive, temporary, ARCHIVE_MARKER)
            break
    files.sync_directory(nas.archive)


def _read(nas: Nas) -> str:
    """What the marker says; empty if there is none. Raises OSError."""
    try:
        return (
            read_file(nas.archive / ARCHIVE_MARKER, 100, follow=False)
            .decode("ascii", "replace")
            .strip()
        )
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return ""
        raise


def _foreign(nas: Nas, found: str) -> NasError:
    named = (
        f"the repository {found}"
        if _REPOSITORY.fullmatch(found)
        else f"nobody that could be named ({found!r})"
    )
    return NasError(
        f"the archive directory {nas.archive} belongs to {named}; nothing was changed",
        hint="is the right one configured, and mounted? If the database of that repository is "
        "lost: `vmbackup-admin statedb rebuild` makes it anew of the copies, and keeps the "
        "archive. If that repository is gone for good, and another one takes over the "
        f"archive: remove {nas.archive / ARCHIVE_MARKER}, and run the command again",
    )


def _another(nas: Nas, lost: Sequence[str], archived: int) -> NasError | None:
    """An archive with our marker that has nothing of what was archived."""
    if not lost or len(lost) != archived:
        return None
    return NasError(
        (
            f"none of the {archived} archived VMs is in the archive directory {nas.archive} "
            f"(directories {_names(lost)}): it is another one"
        ),
        hint="is the right archive mounted, is nas.archive_directory right? If the copies were "
        "deleted on purpose: "
        "`vmbackup-admin forget VM` for each of them",
    )


def _names(directories: Sequence[str]) -> str:
    return ", ".join(directories[:_SHOWN]) + (", …" if directories[_SHOWN:] else "")


def _unmarked(nas: Nas, repository: str, what: str) -> NasError:
    return NasError(
        f"the archive directory {nas.archive} {what}: it is not mounted, or another one",
        hint=f"mount it, then work goes on by itself. If it is the right one as it is: "
        f"`mkdir -p {shlex.quote(str(nas.archive))} && echo {repository} > "
        f"{shlex.quote(str(nas.archive / ARCHIVE_MARKER))}`",
    )
