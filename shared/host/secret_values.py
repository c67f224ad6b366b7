"""Secrets: read when they are needed, from where the configuration says that they stand.

What is raised here names the place, never the secret.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.host.documents import read_own
from shared.host.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import SecretStr

#: Longer than any URL.
_LIMIT: Final = 8192


def revealed(secret: "SecretStr", setting: str, environment: Mapping[str, str] = os.environ) -> str:
    """The secret that a setting (its key) names: itself, or what stands at the place it names.

    `env:NAME`, `file:/path`, or `credential:NAME` for a credential of systemd. Raises
    `ConfigurationError` if nothing usable stands there.
    """
    value = secret.get_secret_value()
    kind, _, place = value.partition(":")
    if kind == "env":
        found = environment.get(place, "")
        if not found:
            raise ConfigurationError(f"{setting}: ${place} is not set in the environment")
    elif kind == "file":
        found = _read(_found(place, setting), setting)
    elif kind == "credential":
        directory = environment.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise ConfigurationError(
                f"{setting}: there is no $CREDENTIALS_DIRECTORY",
                hint="systemd sets it for units with LoadCredential=; elsewhere use file: or env:",
            )
        found = _read(Path(directory, place), setting)
    else:
        found = value
    found = found.strip()
    if not found or len(found) > _LIMIT or not found.isprintable():
        raise ConfigurationError(
            f"{setting}: there must stand one line with a URL, and nothing else"
        )
    return found


def exposed_file(secret: "SecretStr") -> str:
    """The file in which the secret stands, if all users of the host may read that; else empty."""
    kind, _, place = secret.get_secret_value().partition(":")
    if kind != "file":
        return ""
    try:
        path = _found(place, "")
        return str(path) if path.stat().st_mode & stat.S_IROTH else ""
    except (OSError, ConfigurationError):
        return ""


def _found(place: str, setting: str) -> Path:
    """With `~` as the home directory. Raises `ConfigurationError` if there is none."""
    try:
        return Path(place).expanduser()
    except RuntimeError:
        raise ConfigurationError(
            f"{setting}: {place} cannot be found: there is no home directory",
            hint="set HOME, or write an absolute path",
        ) from None


def _read(path: Path, setting: str) -> str:
    try:
        return read_own(path).decode("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{setting}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{setting}: {path} is no UTF-8 text") from None
