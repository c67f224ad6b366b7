"""The three streams with which every program starts, whatever its caller has left of them."""

import contextlib
import locale
import os
import sys
from collections.abc import Iterator
from typing import Final, TextIO

import click

from shared.host.errors import VmBackupError

_STREAMS: Final = (0, 1, 2)


def use_utf8() -> None:
    """Starts this program anew if Python would not take names of files and VMs as UTF-8.

    VirtualBox writes them in UTF-8 whatever the locale is. What is printed keeps the locale's
    encoding. Does not return if it starts the program anew.
    """
    if sys.getfilesystemencoding().casefold() == "utf-8":
        return
    os.environ.setdefault("PYTHONIOENCODING", locale.getpreferredencoding(False))  # noqa: FBT003 - locale's signature
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - itself


def make_usable() -> None:
    """Opens closed streams on the null device; prints what a terminal cannot show as escapes.

    Otherwise the next file that is opened, on the NAS perhaps, would be standard output or error
    for whatever prints, and for every child.
    """
    for descriptor in _STREAMS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - its number is the lowest that is free: this one
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open for as long as we run
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


class OutputError(VmBackupError):
    """What a command had to say could not be written."""


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Within, all that is printed is written, or `OutputError` is raised.

    A reader that has gone (`| head`) is a `BrokenPipeError`.
    """
    try:
        yield
        _flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if not _was_printing(error):
            raise
        discard()
        raise OutputError(
            f"the output could not be written: {error.strerror}",
            hint="look at where standard output goes, then look what was done",
        ) from error


def _flush() -> None:
    sys.stdout.flush()


def _was_printing(error: OSError) -> bool:
    """Whether it was raised where something is printed, not where a file is written."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code in (click.echo.__code__, _flush.__code__)


def discard(stream: TextIO | None = None) -> None:
    """Drops what is printed from now on, and what could not be written. Default: stdout."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, (stream or sys.stdout).fileno())
        os.close(null)


def settle() -> None:
    """Before the program ends: what cannot be written does not change its exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            discard(stream)
