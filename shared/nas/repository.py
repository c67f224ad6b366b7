"""Which NAS this host knows.

A local note of the repository id found at a mount point, so that a foreign or emptied one is
noticed.

An unmounted NAS that left an empty directory, a wrong export, a replaced disk: all look like a NAS.
The id in `vmtool-db-version` tells them apart, and what it must be is remembered here, outside of
the NAS, at the first use.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from shared.host.configuration import Nas
from shared.host.errors import ConfigurationError, NasError


def check_repository(nas: Nas, state_directory: Path, found: str | None) -> None:
    """Makes sure that the repository `found` at the mount point (None: no database there) is the one that this host knows.

    The first one is remembered. Raises `NasError` if it is another one or none,
    `ConfigurationError` if the note cannot be kept.
    """
    note = _note(nas, state_directory)
    known = _read_note(note)
    if known is None and found is not None:
        _write(note, {"mountpoint": str(nas.mountpoint), "repository": found})
    elif known is not None and known != found:
        what = f"holds the repository {found}" if found else "holds no state database"
        raise NasError(
            f"the NAS at {nas.mountpoint} {what}; this host knows {known} there",
            hint=(
                f"is the right NAS mounted? If it was replaced on purpose, remove {note} on "
                f"this host"
            ),
        )


def known_repository(nas: Nas, state_directory: Path) -> str | None:
    """The repository that this host knows at the mount point; None before its first use."""
    return _read_note(_note(nas, state_directory))


def is_archive_noted(nas: Nas, state_directory: Path) -> bool:
    """Whether this host has seen the marker of the archive directory that is configured now.

    Raises `ConfigurationError`.
    """
    return _read_document(_note(nas, state_directory)).get("archive") == str(nas.archive)


def note_archive(nas: Nas, state_directory: Path) -> None:
    """Remembers that the archive directory had its marker.

    Raises `ConfigurationError` if that cannot be kept.
    """
    note = _note(nas, state_directory)
    document = _read_document(note)
    if "repository" in document and document.get("archive") != str(nas.archive):
        _write(note, {**document, "archive": str(nas.archive)})


def _note(nas: Nas, state_directory: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(nas.mountpoint)).hexdigest()[:16]
    return state_directory / f"repository-{digest}.json"


def _read_note(note: Path) -> str | None:
    repository = _read_document(note).get("repository")
    return repository if isinstance(repository, str) else None


def _read_document(note: Path) -> Mapping[str, object]:
    """The note; empty if there is none."""
    try:
        document = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {note}: {error.strerror}",
            hint="host.state_directory must belong to this user",
        ) from None
    except (ValueError, RecursionError):
        # a torn note cannot happen (see below); nonsense is as good as none, and is replaced
        return {}
    return document if isinstance(document, dict) else {}


def _write(note: Path, document: Mapping[str, object]) -> None:
    temporary = note.with_name(f"{note.name}.{secrets.token_hex(4)}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(note)
    except OSError as error:
        raise ConfigurationError(
            f"cannot remember which NAS this is in {note.parent}: {error.strerror}",
            hint="set host.state_directory to one that this user may write",
        ) from None
