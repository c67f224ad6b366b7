"""Finds and reads the configuration: one TOML file, a few environment variables over it."""

import contextlib
import os
import shlex
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from shared.host.configuration.model import Configuration
from shared.host.configuration.refusals import refusals
from shared.host.configuration.values import user_path
from shared.host.configuration_places import DEFAULT_PATHS
from shared.host.documents import LIMIT
from shared.host.errors import ConfigurationError

#: Environment variables that beat the file.
ENVIRONMENT: Final[Mapping[str, tuple[str, str]]] = {
    "NAS_MOUNTPOINT": ("nas", "mountpoint"),
    "ARCHIVE_DIR": ("nas", "archive_directory"),
    "VMBACKUP_NODE": ("host", "node"),
    "VMBACKUP_VBOXMANAGE": ("virtualbox", "vboxmanage"),
}


def find(
    explicit: str | None,
    environment: Mapping[str, str] = os.environ,
    defaults: Sequence[Path] = DEFAULT_PATHS,
) -> Path | None:
    """The configuration file to read.

    `explicit`, else `$VMBACKUP_CONFIG`, else the first of `defaults` that exists, else None.

    Raises `ConfigurationError` if it is named by a home directory that there is not.
    """
    named = explicit or environment.get("VMBACKUP_CONFIG")
    try:
        if named:
            return user_path(Path(named))
    except ValueError as error:
        raise ConfigurationError(f"the configuration {error}") from None
    for candidate in defaults:
        # a user may have no home, or may not look there
        with contextlib.suppress(ValueError, OSError):
            if (path := user_path(candidate)).is_file():
                return path
    return None


def load(explicit: str | None = None, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Reads the configuration. Raises `ConfigurationError` with every error of the file."""
    path = find(explicit, environment)
    source = str(path) if path else "no configuration file, environment only"
    return validated(_read(path) if path else {}, environment, source)


def mark(explicit: str | None, environment: Mapping[str, str] = os.environ) -> object:
    """What is equal as long as `load` would read the same again; None if that cannot be told.

    A pipe can be read once only, so it stays what it was.
    """
    path = find(explicit, environment)
    over = tuple(environment.get(variable) for variable in ENVIRONMENT)
    if path is None:
        return over
    try:
        found = path.stat()
    except (OSError, ValueError):  # `load` says why
        return None
    written = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    as_it_is = written if stat.S_ISREG(found.st_mode) else ()
    return path, found.st_dev, found.st_ino, as_it_is, over


def validated(values: dict[str, Any], environment: Mapping[str, str], source: str) -> Configuration:
    """Checks what `source` has, with the environment over it.

    Raises `ConfigurationError` that lists every error, each with its key.
    """
    # every section is there, so that its own defaults are checked like a file's values
    values = {name: {} for name in Configuration.model_fields} | values
    for variable, (section, key) in ENVIRONMENT.items():
        table = values.get(section)
        if environment.get(variable) and isinstance(table, dict):
            values[section] = {**table, key: environment[variable]}
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        lines = [f"  {key}: {reason}" for key, reason in refusals(error)]
        raise ConfigurationError(
            f"the configuration is wrong ({source}):\n" + "\n".join(lines),
            hint="`vmbackup-admin config generate` prints a file with every setting explained",
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:  # a pipe is the operator's wish: --config <(...)
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise ValueError(f"it is longer than {LIMIT} bytes")
        return tomllib.loads(data.decode("utf-8-sig"))  # some editors write a mark before it
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the configuration {path}: {error.strerror}",
            hint=f"`vmbackup-admin config generate --output {shlex.quote(str(path))}` makes one"
            if isinstance(error, FileNotFoundError)
            else "the user who owns the VMs must be able to read it",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"the configuration {path} is not UTF-8 text (byte {error.start + 1})",
            hint="save it as UTF-8",
        ) from None
    except (ValueError, RecursionError) as error:
        # ValueError: also of numbers that are too long
        raise ConfigurationError(f"the configuration {path} is not valid TOML: {error}") from None
