"""Notes: what this host remembers in its state directory, outside of the NAS.

A note is one small JSON object in a file of its own. It is written whole or not at all: flushed
under another name, then renamed over the one before, and that is flushed, too. Nonsense counts as
no note, and the next one replaces it. A note that cannot be read or kept is an error of the
configuration, whatever it is about; only who can do without it goes on.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.host.documents import load, read_own
from shared.host.errors import ConfigurationError
from shared.host.shortage import room_hint


@dataclass(frozen=True, slots=True)
class Note:
    """One note. `subject` completes "cannot remember …"."""

    path: Path
    subject: str

    def read(self) -> Mapping[str, object]:
        """What is noted; empty if nothing is. Raises `ConfigurationError`."""
        try:
            document = load(read_own(self.path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {self.path}: {error.strerror}",
                hint="host.state_directory must belong to this user",
            ) from None
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def write(self, document: Mapping[str, object]) -> None:
        """Puts `document` in the place of what was noted. Raises `ConfigurationError`."""
        temporary = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("x", encoding="utf-8") as file:
                    json.dump(document, file)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path)
                with contextlib.suppress(OSError):
                    flush_directory(self.path.parent)
            except OSError:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as error:
            raise ConfigurationError(
                f"cannot remember {self.subject} in {self.path.parent}: {error.strerror}",
                hint=room_hint(error) or "set host.state_directory to one that this user may write",
            ) from None

    def remove(self) -> None:
        """Notes nothing any more. Raises `ConfigurationError`."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot forget {self.subject} in {self.path.parent}: {error.strerror}",
                hint="host.state_directory must belong to this user",
            ) from None


def write_flushed(path: Path, data: bytes) -> None:
    """Writes a file, and brings it to the disk, with its name where that can be.

    Raises `OSError`.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(OSError):
        flush_directory(path.parent)


def flush_directory(directory: Path) -> None:
    """Brings to the disk which names are in a directory. Raises `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
