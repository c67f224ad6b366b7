"""A program of its own: becomes another program that is told to end when its parent ends (Linux).

Run as `python -I -S end_with_parent.py PARENT PROGRAM [ARGUMENT]...`, where PARENT is the process
number of the parent. The kernel sends TERM when the thread that started it ends, however that ends.
Python cannot ask for this between fork and exec without risking a deadlock in a program that has
threads; this asks for it after the exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
#: What a shell answers for a program that cannot be started.
_CANNOT_START = 126
#: A program that is started must not inherit that; `subprocess` restores the same ones.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def main(parent: str, *command: str) -> None:
    """Becomes the command; returns if that cannot be started."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before we asked
        return
    for ignored in _IGNORED_BY_PYTHON:
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - it becomes what its parent wanted to start
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.exit(_CANNOT_START)
