"""Text from outside, made harmless where it is shown: on a terminal, and in a command to be copied.

Names of VMs, hosts and files may hold anything: escape sequences that colour or rename a terminal,
line breaks, controls that turn the direction of writing, characters of a shell.
"""

import shlex


def printable(text: str) -> str:
    r"""`text` with what could move the cursor, colour the screen or break a line made visible.

    Controls become what Python writes for them: an escape `\x1b`, a line break `\n`. So do
    formatting characters (those of bidirectional text, for one) and bytes that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def quoted(name: str) -> str:
    """A name as an argument in a command that a hint shows, ready for a shell.

    In front of one that looks like an option stands `--`, which all our commands understand.
    """
    word = shlex.quote(name)
    return f"-- {word}" if name.startswith("-") else word
