"""Which NAS this host knows.

A local note of the repository id found at a mount point, so that a foreign or emptied one is
noticed.

An unmounted NAS that left an empty directory, a wrong export, a replaced disk: all look like a NAS.
The id in `vmtool-db-version` tells them apart, and what it must be is remembered here, outside of
the NAS, at the first use, until a person says that another one is right.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from shared.host.configuration import Nas
from shared.host.errors import OtherRepositoryError
from shared.host.notes import Note


def check_repository(nas: Nas, state_directory: Path, found: str | None) -> None:
    """Makes sure that the repository `found` at the mount point is the one that this host knows.

    None: no database is there.

    The first one is remembered. Raises `OtherRepositoryError` if it is another one or none,
    `ConfigurationError` if the note cannot be kept.
    """
    note = _note(nas, state_directory)
    known = _repository(note.read())
    if known is None and found is not None:
        note.write({"mountpoint": str(nas.mountpoint), "repository": found})
    elif known is not None and known != found:
        what = f"holds the repository {found}" if found else "holds no state database"
        lost = (
            ""
            if found
            else "; if only the database is lost: `vmbackup-admin copies` shows the copies, "
            "`vmbackup-admin statedb rebuild` makes a database of them"
        )
        raise OtherRepositoryError(
            f"the NAS at {nas.mountpoint} {what}; this host knows {known} there",
            hint="is the right NAS mounted? If it was replaced on purpose: `vmbackup-admin statedb "
            f"accept` on this host{lost}",
        )


def accept_repository(nas: Nas, state_directory: Path, found: str | None) -> None:
    """From now on this host knows the repository `found` at the mount point; None: none.

    Raises `ConfigurationError` if that cannot be remembered.
    """
    note = _note(nas, state_directory)
    if found is None:
        note.remove()
    elif _repository(note.read()) != found:
        note.write({"mountpoint": str(nas.mountpoint), "repository": found})


def known_repository(nas: Nas, state_directory: Path) -> str | None:
    """The repository that this host knows at the mount point; None before its first use."""
    return _repository(_note(nas, state_directory).read())


def is_archive_noted(nas: Nas, state_directory: Path) -> bool:
    """Whether this host has seen the marker of the archive directory that is configured now.

    Raises `ConfigurationError`.
    """
    return _note(nas, state_directory).read().get("archive") == str(nas.archive)


def note_archive(nas: Nas, state_directory: Path) -> None:
    """Remembers that the archive directory had its marker.

    Raises `ConfigurationError` if that cannot be kept.
    """
    note = _note(nas, state_directory)
    document = note.read()
    if "repository" in document and document.get("archive") != str(nas.archive):
        note.write({**document, "archive": str(nas.archive)})


def _note(nas: Nas, state_directory: Path) -> Note:
    digest = hashlib.sha256(os.fsencode(nas.mountpoint)).hexdigest()[:16]
    return Note(state_directory / f"repository-{digest}.json", "which NAS this is")


def _repository(document: Mapping[str, object]) -> str | None:
    repository = document.get("repository")
    return repository if isinstance(repository, str) else None
