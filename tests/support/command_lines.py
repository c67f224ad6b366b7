"""Command lines of this product in texts (documentation, units, crontabs), and whether its programs
understand them.
"""

import re
import shlex
from collections.abc import Iterator

import click

from coordinator.admin import program as admin
from coordinator.lock import program as lock
from worker.cli import program as worker

PROGRAMS = {str(program.name): program for program in (admin, lock, worker)}
#: A program's name that stands for a call: what follows on the line is its arguments.
_CALL = re.compile(rf"(?<![\w/-])({'|'.join(PROGRAMS)})((?:[ \t]+[^\s`|)#&;,]+)+)")


def find(text: str) -> Iterator[str]:
    """The command lines in `text`, each from its program's name to where the prose, the comment or
    the pipe begins.
    """
    for line in text.splitlines():
        for match in _CALL.finditer(line):
            yield match[0]


def problem(line: str) -> str:
    """Why a program would refuse a command line: an unknown command or option.

    Empty if it would not. Values are not looked at.
    """
    words = shlex.split(line)
    command: click.Command = PROGRAMS[words[0]]
    options = _options(command)
    for word in words[1:]:
        if word.startswith("-"):
            if word.partition("=")[0] not in options:
                return f"{line}: no option {word}"
        elif isinstance(command, click.Group) and not _is_value(words, word, command):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return f"{line}: no command {word}"
            command = found
            options = _options(command)
    return ""


def _options(command: click.Command) -> set[str]:
    parameters = command.get_params(click.Context(command))
    return {
        name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)
    }


def _is_value(words: list[str], word: str, command: click.Command) -> bool:
    before = words[words.index(word) - 1]
    return any(
        before in parameter.opts
        and not getattr(parameter, "is_flag", False)
        and not getattr(parameter, "count", False)
        for parameter in command.get_params(click.Context(command))
    )
