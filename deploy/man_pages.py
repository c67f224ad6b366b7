"""The man pages, made from the commands: one for each program and one for each command.

`python -m deploy.man_pages` prints them as JSON, by their file names. It needs the programs and
nothing else, so `deploy/install` has the Python of a new installation run this file.
"""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Final

import click

from coordinator.admin import program as admin
from coordinator.lock import program as lock
from worker.cli import program as worker

_PROGRAMS: Final = (admin, lock, worker)


def pages() -> dict[str, str]:
    """Each page in the language of man, by its file name."""
    return {
        f"{page}.1": text
        for program in _PROGRAMS
        for page, text in _of(str(program.name), program, None)
    }


def _of(
    called: str, command: click.Command, above: click.Context | None
) -> Iterator[tuple[str, str]]:
    context = click.Context(command, parent=above, info_name=called)
    name = context.command_path.replace(" ", "-")
    inner = _inner(command, context)
    yield name, "\n".join(_page(name, command, context, inner)) + "\n"
    for called_so, each in inner.items():
        yield from _of(called_so, each, context)


def _inner(command: click.Command, context: click.Context) -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {}
    names = command.list_commands(context)
    found = {name: command.get_command(context, name) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def _page(
    name: str, command: click.Command, context: click.Context, inner: dict[str, click.Command]
) -> Iterator[str]:
    yield f'.TH {_plain(name.upper())} 1 "" vmbackup vmbackup'
    yield ".SH NAME"
    yield f"{_plain(name)} \\- {_plain(command.get_short_help_str(200))}"
    yield ".SH SYNOPSIS"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".B {_plain(context.command_path)}"
    yield _plain(usage)
    yield ".SH DESCRIPTION"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield _plain(" ".join(paragraph.split()))
        yield ".PP"
    if options := [each for each in _explained(command, context) if each]:
        yield ".SH OPTIONS"
        for names, text in options:
            yield from (".TP", f".B {_plain(names)}", _plain(text))
    if inner:
        yield ".SH COMMANDS"
        for called, each in inner.items():
            page = f"{name}-{called}"
            yield from (".TP", f".BR {_plain(page)} (1)", _plain(each.get_short_help_str(200)))
    yield from _ending(command.epilog or "")


def _explained(command: click.Command, context: click.Context) -> Iterator[tuple[str, str] | None]:
    for parameter in command.get_params(context):
        yield parameter.get_help_record(context)


def _ending(epilog: str) -> Iterator[str]:
    """Examples and exit codes, which `documented` writes as paragraphs of lines."""
    for paragraph in epilog.replace("\b\n", "").strip().split("\n\n"):
        head, *lines = paragraph.split("\n")
        if lines and (title := re.fullmatch(r"([A-Z][a-z ]+):", head)):
            yield from (f".SH {title[1].upper()}", ".nf", *map(_plain, lines), ".fi")
        elif paragraph:
            yield from (".PP", _plain(" ".join(paragraph.split())))


def _plain(text: str) -> str:
    """Text that man takes for nothing else."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\`")
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain


def main() -> None:
    """Prints them."""
    print(json.dumps(pages()))


if __name__ == "__main__":
    main()
