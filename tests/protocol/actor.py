"""A worker in a drawn schedule, and how its steps are shown."""

from dataclasses import dataclass
from typing import Any

from tests.protocol.nas import Outcome
from tests.protocol.process import Done, Process
from tests.protocol.search import brief


@dataclass
class Actor:
    """A process in the schedule."""

    name: str
    role: str
    number: int
    process: Process
    node: int = 0
    #: When it came to its present operation.
    since: float = 0.0
    #: Since when its heart stands still.
    silent_since: float | None = None
    longest_silence: float = 0.0
    crashed: bool = False

    @property
    def operation(self) -> Any:
        """What it is about to do."""
        return self.process.operations[self.node]

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return not self.crashed and not isinstance(self.operation, Done)

    @property
    def sleeps(self) -> bool:
        """Whether it is paused: it makes no step, and its heart stands still."""
        return self.lives and self.silent_since is not None

    @property
    def runs(self) -> bool:
        """Whether it may make a step."""
        return self.lives and self.silent_since is None

    def silence(self, now: float) -> float:
        """For how long its heart has stood still at a time, in seconds."""
        return max(
            self.longest_silence, 0.0 if self.silent_since is None else now - self.silent_since
        )


class Line:
    """A step, described only if the schedule is shown."""

    def __init__(self, actor: Actor, outcome: Outcome) -> None:
        self._actor, self._operation, self._note = actor, actor.operation, outcome.note

    def __repr__(self) -> str:
        return (
            f"    {self._actor.name} "
            f"{brief(self._operation)}{f' ({self._note})' if self._note else ''}"
        )
