"""The signals that end a program in an orderly way, the same in every program.

SIGTERM, SIGHUP when its terminal goes away, ^C.

Every child that a program starts has a session or group of its own, so none of these signals
reaches it behind the program's back: a VBoxManage that a hang-up ends leaves VirtualBox at work
with nobody watching (docs/virtualbox.md).
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from shared.host.errors import ExitCode

if TYPE_CHECKING:
    from sys import UnraisableHookArgs as Unraisable

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
#: Those, and ^C.
ALL: Final = (*ENDING, signal.SIGINT)
#: After that the code in which an exception was dropped has gone on.
_AGAIN_SECONDS: Final = 0.05


class EndedError(SystemExit):
    """The program was told to end; says by what where the reason is noted."""

    def __init__(self, number: int) -> None:
        super().__init__(int(ExitCode.TERMINATED))
        self.name = signal.Signals(number).name

    def __str__(self) -> str:
        return f"it was ended by {self.name}"


def is_ignored(number: signal.Signals) -> bool:
    """Whether this program was started so that a signal does nothing, and must stay so.

    SIGHUP with `nohup`, SIGINT with `&` in scripts.
    """
    return number in (signal.SIGHUP, signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Within, the first of these signals raises `EndedError` (^C: `KeyboardInterrupt`).

    So everything is undone on the way out. Further signals, of any kind, do not disturb that.
    Afterwards the handlers are as before. One that comes while code in C calls back, which drops
    what is raised there, comes once more a moment later.
    """
    heeded = [number for number in ALL if not is_ignored(number)]
    previous = {number: signal.signal(number, _end) for number in heeded}
    reported, again = sys.unraisablehook, list[threading.Timer]()
    sys.unraisablehook = _not_lost(reported, again)
    try:
        yield
    finally:
        sys.unraisablehook = reported
        for timer in again:
            timer.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, these signals wait: what is begun can be finished and noted. Then they take effect.

    For moments only. Signals that no handler of this program's heeds are not held back, and only
    the main thread is ever disturbed by one. What is started meanwhile does not inherit this.
    """
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    heeded = {number: signal.getsignal(number) for number in ALL}
    previous = {number: handler for number, handler in heeded.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        previous = {}
    try:
        for number in previous:
            signal.signal(number, hold)
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is hold:
                signal.signal(number, handler)
        for came in held:
            signal.raise_signal(came)


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature of a handler
    for other in ALL:
        if not is_ignored(other):
            signal.signal(
                other, _disregard
            )  # not SIG_IGN, which the VMs that are started again would inherit
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise EndedError(number)


def _not_lost(
    reported: "Callable[[Unraisable], object]", again: list[threading.Timer]
) -> "Callable[[Unraisable], None]":
    """What is `reported` of exceptions that are dropped, but not of those by which we are ended.

    Their signal comes `again`.
    """

    def hook(dropped: "Unraisable") -> None:
        error = dropped.exc_value
        if isinstance(error, EndedError):
            number = signal.Signals[error.name]
        elif isinstance(error, KeyboardInterrupt):
            number = signal.SIGINT
        else:
            reported(dropped)
            return
        for each in ALL:
            if signal.getsignal(each) is _disregard:
                signal.signal(each, _end)
        again.append(threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)))
        again[-1].daemon = True
        again[-1].start()

    return hook


def _disregard(number: int, frame: FrameType | None) -> None:
    """The way out has begun.

    A shell that ends and its terminal that closes send a hang-up each, impatient people ^C once
    more.
    """
