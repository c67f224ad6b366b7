"""Text from outside, made harmless where it is shown: on a terminal, and in a command to be copied.

Names of VMs, hosts and files may hold anything: escape sequences that colour or rename a terminal,
line breaks, controls that turn the direction of writing, characters of a shell.
"""

import json
import shlex
from collections.abc import Mapping


def printable(text: str) -> str:
    """`text` with all that could deceive on a terminal made visible, line breaks included.

    Control characters move the cursor and colour the screen, bidirectional ones turn text around.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_lines(text: str) -> str:
    """Like `printable`, but line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(text: str) -> str:
    """Text of several lines as one sentence: `wrong:`, `  a`, `  b` become `wrong: a; b`."""
    first, *others = text.splitlines() or [""]
    return " ".join([first, "; ".join(map(str.strip, others))]).strip()


def json_line(document: Mapping[str, object], *, indent: int | None = None) -> str:
    """A JSON document with what is not printable escaped as JSON has it: it means the same."""
    text = json.dumps(document, ensure_ascii=False, indent=indent, default=str)
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in text
    )


def quoted(name: str) -> str:
    """A name as an argument in a command that a hint shows, ready for a shell.

    In front of one that looks like an option stands `--`, which all our commands understand. What
    is not printable is written as bash, zsh and ksh read it.
    """
    word = shlex.quote(name) if name.isprintable() else _ansi_c_quoted(name)
    return f"-- {word}" if name.startswith("-") else word


def option(flag: str, name: str) -> str:
    """An option with a name as its value, for the same: one word if that looks like an option."""
    return f"{flag}={quoted(name)[3:]}" if name.startswith("-") else f"{flag} {quoted(name)}"


def _ansi_c_quoted(name: str) -> str:
    escaped = printable(name.replace("\\", "\\\\").replace("'", "\\'"))
    return f"$'{escaped}'"
