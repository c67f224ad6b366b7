"""Asking an operator before something is done that cannot be taken back."""

import sys

import click

from shared.host.errors import UsageError
from shared.host.printable import printable_lines


def confirmed(question: str, *, yes: str) -> bool:
    """Asks, on stderr.

    Raises `UsageError` where there is nobody to ask: `yes` says what --yes does.
    """
    if not is_terminal():
        raise UsageError("there is no terminal to ask at", hint=f"--yes {yes}")
    return click.confirm(printable_lines(question), err=True)


def is_terminal() -> bool:
    """Whether somebody can answer."""
    return sys.stdin.isatty()
