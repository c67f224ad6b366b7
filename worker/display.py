"""Bars at a terminal by rich (the extra `terminal`), or plain lines without it."""

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from shared.host.printable import printable
from worker.progress import Display
from worker.progress_words import words

if TYPE_CHECKING:
    from rich.progress import TaskID

#: Without bars so often a line is printed of a VM.
_LINE_SECONDS: Final = 10.0


def at_terminal() -> Display:
    """How things are shown at the terminal that standard error is."""
    try:
        return Bars()
    except ImportError:
        return PlainLines()


class Bars:
    """A bar for each VM. No thread is started: it is drawn when something is shown.

    Raises `ImportError` if rich is not installed.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        name = Column(overflow="fold", ratio=3)
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(bar_width=None, table_column=Column(ratio=2, min_width=8)),
            TextColumn(
                "{task.fields[words]}", markup=False, table_column=Column(overflow="fold", ratio=4)
            ),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}

    def show(self, look: Mapping[str, Any]) -> None:
        """See `Display`."""
        vm = str(look["vm"])
        if vm not in self._tasks:
            self._progress.start()
            self._began[vm] = time.monotonic()
            self._tasks[vm] = self._progress.add_task(printable(vm), total=None, words="")
        percent = look.get("percent")
        self._progress.update(
            self._tasks[vm],
            total=None if percent is None else 100,
            completed=percent or 0,
            words=printable(words(look)),
            refresh=True,
        )

    def ended(self, vm: str, how: str) -> None:
        """See `Display`."""
        task = self._tasks.pop(vm, None)
        if task is not None:
            self._progress.remove_task(task)
            began = self._began.pop(vm)
            if how:
                self.say(_over(vm, how, began))

    def say(self, line: str) -> None:
        """See `Display`."""
        from rich.text import Text

        self._console.print(Text("\n".join(map(printable, line.split("\n")))), soft_wrap=True)

    def close(self) -> None:
        """See `Display`."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()
        self._progress.refresh()
        self._progress.stop()


class PlainLines:
    """A line when the work on a VM begins, now and then, and when it ends."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def show(self, look: Mapping[str, Any]) -> None:
        """See `Display`."""
        vm, now = str(look["vm"]), time.monotonic()
        self._began.setdefault(vm, now)
        if now - self._said.get(vm, now - _LINE_SECONDS) >= _LINE_SECONDS:
            self._said[vm] = now
            self.say(f"{vm}: {words(look)}")

    def ended(self, vm: str, how: str) -> None:
        """See `Display`."""
        if (began := self._began.pop(vm, None)) is not None:
            self._said.pop(vm, None)
            if how:
                self.say(_over(vm, how, began))

    def say(self, line: str) -> None:
        """See `Display`."""
        click.echo("\n".join(map(printable, line.split("\n"))), file=sys.stderr)

    def close(self) -> None:
        """See `Display`."""


def _over(vm: str, how: str, began: float) -> str:
    from shared.host.duration import spoken

    return f"{vm}: {how} after {spoken(time.monotonic() - began)}"
