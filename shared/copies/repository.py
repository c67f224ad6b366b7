"""Which NAS this host knows: a local note of the repository id found at a mount point, so that a foreign or emptied one is noticed.

An unmounted NAS that left an empty directory, a wrong export, a replaced disk: all look like a NAS. The id in `vmtool-db-version`
tells them apart, and what it must be is remembered here, outside of the NAS, at the first use.
"""

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path

from shared.config import Nas
from shared.copies.files import NasFiles, read_file, write_file
from shared.copies.reporting import reported
from shared.errors import ConfigurationError, NasError

#: Lies in an archive directory outside of the NAS and names the repository that archives there.
ARCHIVE_MARKER = ".vmbackup-archive"


def check_repository(nas: Nas, state_directory: Path, found: str | None) -> None:
    """Makes sure that the repository `found` at the mount point (None: no database there) is the one that this host knows.

    The first one is remembered. Raises `NasError` if it is another one or none, `ConfigurationError` if the note cannot be kept.
    """
    note = _note(nas, state_directory)
    known = _read_note(note)
    if known is None and found is not None:
        _remember(note, nas, found)
    elif known is not None and known != found:
        what = f"holds the repository {found}" if found else "holds no state database"
        raise NasError(
            f"the NAS at {nas.mountpoint} {what}; this host knows {known} there",
            hint=f"is the right NAS mounted? If it was replaced on purpose, remove {note} on this host",
        )


def known_repository(nas: Nas, state_directory: Path) -> str | None:
    """The repository that this host knows at the mount point; None before its first use."""
    return _read_note(_note(nas, state_directory))


def check_archive(nas: Nas, repository: str) -> None:
    """Makes sure that the archive directory can be trusted. Below the mount point it goes with the NAS; elsewhere it must hold our marker.

    Raises `NasError`. Without the marker an archive on a disk that is not mounted would be filled into the empty mount point.
    """
    if nas.archive.is_relative_to(nas.mountpoint):
        return
    try:
        found = read_file(nas.archive, ARCHIVE_MARKER, 100).decode("ascii", "replace").strip()
    except OSError:
        found = ""
    if found != repository:
        what = f"belongs to the repository {found}" if found else f"has no {ARCHIVE_MARKER}"
        raise NasError(
            f"the archive directory {nas.archive} {what}",
            hint=f"is it mounted? If it is the right one: `mkdir -p {nas.archive} && echo {repository} > {nas.archive}/{ARCHIVE_MARKER}`",
        )


def prepare_archive(files: NasFiles, nas: Nas, repository: str) -> None:
    """Makes the archive directory below the mount point; one elsewhere must exist, and gets its marker. For `init`. Raises `NasError`."""
    with reported(f"prepare the archive directory {nas.archive}"):
        if nas.archive.is_relative_to(nas.mountpoint):
            for directory in [*reversed(nas.archive.relative_to(nas.mountpoint).parents), nas.archive.relative_to(nas.mountpoint)][1:]:
                files.make_directory(nas.mountpoint / directory)
        else:
            with contextlib.suppress(FileExistsError):
                write_file(files, nas.archive, ARCHIVE_MARKER, f"{repository}\n".encode())
    check_archive(nas, repository)


def _note(nas: Nas, state_directory: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(nas.mountpoint)).hexdigest()[:16]
    return state_directory / f"repository-{digest}.json"


def _read_note(note: Path) -> str | None:
    try:
        document = json.loads(note.read_text(encoding="utf-8"))
        repository = document["repository"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {note}: {error.strerror}", hint="host.state_directory must belong to this user") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # a torn note cannot happen (see below); nonsense is as good as none, and is replaced
    return repository if isinstance(repository, str) else None


def _remember(note: Path, nas: Nas, repository: str) -> None:
    temporary = note.with_name(f"{note.name}.{secrets.token_hex(4)}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x", encoding="utf-8") as file:
            json.dump({"mountpoint": str(nas.mountpoint), "repository": repository}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(note)
    except OSError as error:
        raise ConfigurationError(
            f"cannot remember which NAS this is in {note.parent}: {error.strerror}",
            hint="set host.state_directory to one that this user may write",
        ) from None
