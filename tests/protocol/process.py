"""A process under the scheduler: the code of production, stopped before each operation on the NAS.

A process is a deterministic function of the answers it got. To go on from any point, it is run
again from its beginning with the answers so far, so that ordinary code (sessions, transactions,
recovery) can be searched as it is.
"""

import errno
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Final, NamedTuple

from shared.host.errors import NasError
from shared.state.store.operations import Operation
from shared.state.store.state_files import StateFiles
from tests.protocol.nas import PASSING, REFUSED

#: What a process does: it gets its door to the NAS, and returns what it was told.
Program = Callable[[StateFiles], Hashable]


class _Stopped(BaseException):
    """Unwinds a process that has used up its answers."""


class Done(NamedTuple):
    """The process has ended with this result."""

    result: Hashable


class _ScriptedFiles(StateFiles):
    """The door of production, behind which the answers are known already."""

    def __init__(self, answers: list[Any]) -> None:
        self.root = Path("/nas/vmstate")
        self.next_operation: Any = None
        self._answers = iter(answers)

    def perform(self, operation: Operation) -> Any:
        if self.next_operation is None:
            for answer in self._answers:
                if answer is REFUSED:
                    raise NasError("refused")
                if answer is PASSING:
                    raise NasError("refused") from OSError(errno.ESTALE, "Stale file handle")
                return answer
            self.next_operation = operation
        raise _Stopped


class Process:
    """All histories of one process: a tree whose edges are answers. Node 0 is its beginning."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._parents: list[tuple[int, Any]] = [(-1, None)]
        self._children: list[dict[Any, int]] = [{}]
        self.operations: list[Any] = [self._run([])]

    def step(self, node: int, answer: Any) -> int:
        """The node after `answer`."""
        child = self._children[node].get(answer)
        if child is None:
            child = self._children[node][answer] = len(self.operations)
            self._parents.append((node, answer))
            self._children.append({})
            self.operations.append(self._run(self._answers(child)))
        return child

    def _answers(self, node: int) -> list[Any]:
        answers = []
        while node:
            node, answer = self._parents[node]
            answers.append(answer)
        return answers[::-1]

    def _run(self, answers: list[Any]) -> Any:
        files = _ScriptedFiles(answers)
        try:
            return Done(self._program(files))
        except _Stopped:
            return files.next_operation


CRASHED: Final = -1
