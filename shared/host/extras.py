"""Extras: packages that not every installation has."""

import importlib.util
import shlex
import sys

from shared.host.errors import ConfigurationError


def is_here(module: str) -> bool:
    """Whether the module of an extra is installed."""
    return importlib.util.find_spec(module) is not None


def require_extra(extra: str, module: str, package: str, what: str) -> None:
    """Raises `ConfigurationError`, with what to install, if a package is not here.

    `what` completes "… the package NAME, which is not installed here". `extra` is what
    pyproject.toml calls it. The command that is named is for the environment of this very program.
    """
    if not is_here(module):
        python = shlex.quote(sys.executable)
        raise ConfigurationError(
            f"{what} the package {package}, which is not installed here",
            hint=f"it is the extra `{extra}`: `{python} -m pip install {package}`, or install "
            f"vmbackup again without `--without {extra}`",
        )
