"""Runs a program of this product and counts what it asks of the NAS.

`counted.py NAS RESULT MODULE ARGUMENTS…`.

Python reports each of these calls before it makes it: opens, listings, creations of directories,
links, renames, removals. Calls on an open file (read, write, fsync, fstat) and `stat` are not
reported. Starts of processes are counted, too.
"""

import atexit
import json
import os
import runpy
import sys
from typing import Any

_CALLS = (
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.link",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.utime",
)


def main() -> None:
    """Counts until the program ends, then writes the counts as JSON."""
    nas, result, module, *arguments = sys.argv[1:]
    counts: dict[str, int] = {}

    def hook(event: str, parameters: tuple[Any, ...]) -> None:
        wrapped = event == "open" and isinstance(
            parameters[0], int
        )  # a file object for what is open already
        if event == "subprocess.Popen" or (
            event in _CALLS and not wrapped and _below(nas, parameters[0])
        ):
            counts[event] = counts.get(event, 0) + 1

    atexit.register(lambda: _write(result, dict(counts)))
    sys.argv = [module, *arguments]
    sys.addaudithook(hook)
    runpy.run_module(module, run_name="__main__")


def _below(nas: str, path: object) -> bool:
    """Whether a path, or the directory that a descriptor stands for, is below the NAS."""
    if isinstance(path, int):
        try:
            path = os.readlink(f"/proc/self/fd/{path}")
        except OSError:
            return False
    return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(nas)


def _write(result: str, counts: dict[str, int]) -> None:
    with open(result, "w", encoding="utf-8") as file:
        json.dump(counts, file)


if __name__ == "__main__":
    main()
