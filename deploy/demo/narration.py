"""What the demo says: headings, the commands that a person would type, and what these print."""

import shutil
import sys
import textwrap
from typing import Final

_BOLD, _DIM, _END = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
_WIDTH: Final = min(110, shutil.get_terminal_size().columns)
_LONGEST: Final = 40


class Narrator:
    """Prints at once, so that a pipe shows as much as a terminal."""

    def __init__(self) -> None:
        self._part = 0

    def heading(self, text: str) -> None:
        """The next part begins."""
        self._part += 1
        print(f"\n\n{_BOLD}{self._part}. {text}{_END}", flush=True)

    def say(self, text: str) -> None:
        """A paragraph."""
        print("\n" + textwrap.fill(" ".join(text.split()), _WIDTH), flush=True)

    def command(self, host: str, line: str) -> None:
        """A command that is typed on a host."""
        print(f"\n  {_BOLD}{host}${_END} {line}", flush=True)

    def output(self, text: str, *, newest: bool = False) -> None:
        """What it printed. Of much, the first lines or (`newest`) the last ones are shown."""
        lines = text.rstrip().splitlines()
        if len(lines) > _LONGEST:
            left_out = f"… {len(lines) - _LONGEST} lines more"
            lines = [left_out, *lines[-_LONGEST:]] if newest else [*lines[:_LONGEST], left_out]
        for line in lines:
            print(textwrap.indent(_folded(line), "    "), flush=True)

    def status(self, code: int, meaning: str) -> None:
        """How it ended, where that is worth a line."""
        print(f"    {_DIM}(exit code {code}: {meaning}){_END}", flush=True)


def _folded(line: str) -> str:
    """A sentence in lines of the terminal; what is no sentence, like a row of a table, as it is."""
    words = line.lstrip()
    indent = line[: len(line) - len(words)]
    if len(line) <= _WIDTH - 4 or words.count("  ") > 1:
        return line
    return textwrap.fill(
        words,
        _WIDTH - 4,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
