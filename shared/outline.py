"""The outlines of the commands: what a shell completes, without importing what commands need.

`outlines.json` is made of the commands by `python -m deploy.documents`, and a test compares the
two. A command that is not in it is imported as usual.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import click

from shared import completion
from shared.command_line import HELP

PLACE: Final = Path(__file__).with_name("outlines.json")
_NAMED: Final[Mapping[str, click.ParamType[Any]]] = {
    "vm": completion.VM,
    "lock": completion.LOCK,
    "booted": completion.BOOTED,
    "host": completion.HOST,
    "stamp": completion.STAMP,
    "copy": completion.COPY,
    "path": click.Path(),
    "text": click.STRING,
}


def of(command: click.Command) -> list[dict[str, Any]]:
    """What of a command's options and arguments matters when it is typed."""
    return [_outlined(param) for param in command.params if not getattr(param, "hidden", False)]


def _outlined(param: click.Parameter) -> dict[str, Any]:
    if isinstance(param.type, click.Choice):
        kind: str | list[str] = [str(choice) for choice in param.type.choices]
    else:
        named = (name for name, known in _NAMED.items() if known is param.type)
        kind = "path" if isinstance(param.type, click.Path) else next(named, "text")
    made: dict[str, Any] = {"name": param.name, "type": kind}
    if param.nargs != 1:
        made["nargs"] = param.nargs
    if isinstance(param, click.Option):
        made |= {"option": [*param.opts, *param.secondary_opts], "help": param.help}
        if param.is_flag or param.multiple:
            made["flag" if param.is_flag else "multiple"] = True
    return made


def read(program: str, name: str) -> click.Command | None:
    """A command that completes like the real one, and does nothing; None if it has no outline."""
    params = _read().get(program, {}).get(name)
    if params is None:
        return None
    return click.Command(name, params=[_param(each) for each in params], context_settings=HELP)


@cache
def _read() -> dict[str, dict[str, list[dict[str, Any]]]]:
    known: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(PLACE.read_bytes())
    return known


def _param(made: Mapping[str, Any]) -> click.Parameter:
    kind = made["type"]
    named: click.ParamType[Any] = click.Choice(kind) if isinstance(kind, list) else _NAMED[kind]
    nargs = made.get("nargs", 1)
    if "option" not in made:
        return click.Argument([made["name"]], type=named, nargs=nargs, required=False)
    words = [made["name"], *made["option"]]
    if made.get("flag"):
        return click.Option(words, is_flag=True, help=made["help"])
    multiple = made.get("multiple", False)
    return click.Option(words, type=named, nargs=nargs, multiple=multiple, help=made["help"])
