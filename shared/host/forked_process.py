"""A process that is forked off this one: it has at once what this program has imported.

Workers that follow each other in a tick would otherwise each import the same modules, which costs
more than their work. Only what a program has in memory is shared, by copying: a fork has its own
number, session, signals and end, and nothing that it does changes this process or another fork.
"""

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Final

from shared.host.signals import ALL, is_ignored

_TASKS: Final = Path("/proc/self/task")


def can_fork(platform: str = sys.platform, tasks: Path = _TASKS) -> bool:
    """Whether this program can be forked safely: on Linux, while it has no second thread.

    Of several threads only one lives on in a fork, and with it whatever locks the others held. The
    frameworks of macOS do not work in a fork.
    """
    try:
        return platform == "linux" and len(list(tasks.iterdir())) == 1
    except OSError:
        return False


class ForkedProcess:
    """A process that does `work` in a session of its own, with standard input closed.

    It ends with the code that `work` exits with (`sys.exit`), 0 if it returns, 1 if it raises
    something else. What it writes to standard error is read from `stderr`, and its standard output
    is ours. `name` is what `ps -o comm` shows. It closes `others`, the pipes of other forks that
    this process has open. Signals that end programs take effect in it as they do in a program that
    begins. Call it only where `can_fork`. Raises `OSError` if there can be no further process.
    """

    def __init__(
        self, work: Callable[[], object], name: str, others: Sequence[IO[bytes]] = ()
    ) -> None:
        read, write = os.pipe()
        self.stderr: IO[bytes] = open(read, "rb", buffering=0)  # noqa: SIM115 - the caller reads it
        gc.freeze()  # a collection in a fork would copy all that is shared
        fork = get_context("fork").Process
        self._process = fork(target=_begin, args=(work, name, write, [self.stderr, *others]))
        waiting = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
        try:
            self._process.start()
        except BaseException:
            self.stderr.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
            os.close(write)

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send(self, number: int) -> None:
        """Sends it a signal; nothing happens if it has ended."""
        if self._process.pid is not None and self.poll() is None:
            # a signal of ours may come between its end and the note of it, in `poll` itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _begin(
    work: Callable[[], object], name: str, stderr: int, closed: Sequence[IO[bytes]]
) -> object:
    """What a fork does first; the signals that end programs wait until it is ready for them."""
    os.setsid()
    for pipe in closed:
        pipe.close()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(stderr, 2)
    for descriptor in {null, stderr} - {0, 2}:
        os.close(descriptor)
    # anew: the one there was may have been a file, which it would go on taking for one
    sys.stderr = open(2, "w", 1, sys.stderr.encoding, sys.stderr.errors, closefd=False)  # noqa: SIM115
    with open("/proc/self/comm", "w", encoding="utf-8") as comm:
        comm.write(name)
    for number in ALL:
        if not is_ignored(number):
            ends = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, ends)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL)
    return work()
