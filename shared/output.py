"""The one writer of what programs say: lines and warnings for people, JSON for scripts, errors.

Whatever came from outside is made printable here, so that nobody has to remember it: names of VMs,
hosts and files, and what VirtualBox, the NAS or a damaged file says, cannot drive a terminal.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any, Final

import click

from shared.host.errors import VmBackupError
from shared.host.printable import json_line, printable, printable_lines, quoted

#: Where click keeps, for the length of a command, whether it prints JSON and what it has warned of.
_JSON: Final = "shared.output.json"
_WARNED: Final = "shared.output.warned"
#: A command of ours that somebody may paste, on this host.
_ON_A_HOST: Final = re.compile(r"\bon (\S+): $")
_COMMAND: Final = re.compile(r"(?<![\w/.-])vmbackup-(?:admin|lock|worker)(?= (?:-v )*[a-z])")


def print_as_json(*, wanted: bool) -> None:
    """Whether warnings of the running command are JSON, because what it prints is."""
    click.get_current_context().meta[_JSON] = wanted


def say(line: str = "") -> None:
    """One line for people, on stdout."""
    click.echo(printable(line))


def warn(text: str) -> None:
    """A warning on stderr, which does not fail the command. The same one is said once in a command.

    A line of text, or one JSON object if the command prints JSON.
    """
    context = click.get_current_context(silent=True)
    meta = context.meta if context else {}
    text = pasteable(text)
    said = meta.setdefault(_WARNED, set())
    if text not in said:
        said.add(text)
        line = json_line({"warning": text}) if meta.get(_JSON) else _indented(f"warning: {text}")
        click.echo(line, err=True)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    click.echo(json_line(document, indent=2))


def answer(document: Mapping[str, Any], *lines: str, as_json: bool) -> None:
    """What a command did or would do, on stdout: one JSON document, or these lines for people.

    Commands in the lines can be pasted (`pasteable`).
    """
    if as_json:
        print_json({"schema": 1, **document})
        return
    for line in lines:
        say(pasteable(line))


def pasteable(text: str) -> str:
    """What to do, with the configuration in its commands that the running command was given."""
    context = click.get_current_context(silent=True)
    config, node = (
        getattr(context.obj, name, None) if context else None for name in ("config", "node")
    )
    return with_configuration(text, config, node or "")


def with_configuration(text: str, path: str | None, node: str = "") -> str:
    """What to do, with `--config` in its commands; not in those that are for another host.

    `node`: what this host is called, if that is known.
    """
    if path is None:
        return text

    def filled(found: re.Match[str]) -> str:
        elsewhere = _ON_A_HOST.search(text[: found.start()])
        other = elsewhere is not None and elsewhere[1] != node
        return found[0] if other else f"{found[0]} --config {quoted(path)}"

    return _COMMAND.sub(filled, text)


def report(
    error: VmBackupError,
    program: str,
    code: int,
    *,
    as_json: bool,
    config: str | None = None,
    node: str = "",
) -> None:
    """Says on stderr what went wrong and what to do about it, as text or as a JSON object.

    `code` is what the program ends with. `config` is the configuration that the command was given,
    which those that help need, too; `node` is what this host is called, if that is known.
    """
    message, hint = (with_configuration(text, config, node) for text in (error.message, error.hint))
    if as_json:
        report_json(type(error).__name__, code, message, hint)
        return
    _complain(error_text(message, hint, program))


def error_text(message: str, hint: str, program: str) -> str:
    """What went wrong and what to do about it, as people read it."""
    told = _indented(f"{program}: error: {message}")
    return f"{told}\n{_indented(f'hint: {hint}')}" if hint else told


def report_json(kind: str, code: int, message: str, hint: str) -> None:
    """An error on stderr as a JSON object."""
    details = {"kind": kind, "code": code, "message": message, "hint": hint}
    _complain(json_line({"error": details}))


def _indented(text: str) -> str:
    """Text of several lines, of which none but the first can be taken for a message of its own."""
    first, *others = printable_lines(text).split("\n")
    return "\n".join([first, *(f"  {line}" if line[:1].strip() else line for line in others)])


def _complain(line: str) -> None:
    """On stderr, if that takes it; the exit code says the most important thing anyway."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)
