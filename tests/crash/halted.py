"""Runs a program that halts at a crash point.

It says `halted at …`, and goes on when the file GO appears.

    python -m tests.crash.halted ROOT MOMENT GO PART… -- PROGRAM ARGUMENT…

It halts at the first point below ROOT that has every PART in its name, `before` or `after` it. Its
other threads, the heartbeat among them, do not halt: what happens to it meanwhile happens to a
process that is alive.
"""

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from tests.crash.doors import Doors, Kill, Moment, Point
from tests.crash.zygote import PROGRAMS


class HaltingDoors(Doors):
    """Calls `halt` at the first point that has all `parts` in its name."""

    def __init__(
        self, root: Path, moment: Moment, parts: Sequence[str], halt: Callable[[Point], None]
    ) -> None:
        super().__init__([root], lambda _point: None, None)
        self._moment, self._parts, self._halt = moment, parts, halt
        self._met: Point | None = None

    def kill_at(self, point: Point) -> Kill | None:
        """See `Doors.kill_at`."""
        if self._met is not None or not all(part in point.name for part in self._parts):
            return None
        self._met = point
        return Kill(point, self._moment)

    def end(self) -> None:
        """Halts, and returns when the process may go on."""
        assert self._met
        self._halt(self._met)


def command(
    root: str, moment: Moment, go: str, parts: Sequence[str], program: Sequence[str]
) -> list[str]:
    """The command line that runs `program` (its name and arguments) so."""
    return [sys.executable, "-m", "tests.crash.halted", root, moment, go, *parts, "--", *program]


def main(words: Sequence[str]) -> None:
    root, moment, go, *parts = words[: words.index("--")]
    name, *arguments = words[words.index("--") + 1 :]

    def halt(point: Point) -> None:
        print(f"halted at {point}", flush=True)
        while not Path(go).exists():
            time.sleep(0.02)

    HaltingDoors(Path(root), cast("Moment", moment), parts, halt).install()
    importlib.import_module(PROGRAMS[name]).program.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
