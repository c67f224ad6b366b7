"""What is on the NAS, looked at on the server's own disk: no client's cache is asked.

Run there as a program; prints JSON.

python -m tests.support.nas_truth NAS '{"states": …, "before": …, "settled": …}'
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared.state.store.snapshot import Snapshot, decode
from tests.crash import promises

#: What a process leaves that was killed before others heard of it: it goes when it is a day old.
_A_DAY = ("tmp/ still has", "node/ still has")


@dataclass(frozen=True)
class Question:
    """`states` are those that the VMs must have (None: not looked at).

    `before`: the good copies that were there, by directory.
    """

    states: dict[str, str] | None = None
    before: dict[str, list[str]] = field(default_factory=dict)
    #: Whether a day has passed: then private files of dead processes are as wrong as anything else
    #: that is left.
    settled: bool = False
    #: Whether a day passes now, for what lies in `tmp/` and `node/`.
    age: bool = False


@dataclass(frozen=True)
class Truth:
    """The newest generation's number, what it says, the good copies, the digests of all files of
    copies, and what is wrong.
    """

    generation: int
    vms: dict[str, dict[str, Any]]
    live: list[str]
    stamps: dict[str, list[str]]
    files: dict[str, str]
    problems: list[str]


@dataclass(frozen=True)
class Disk:
    """See `tests.crash.promises.Seen`."""

    nas: Path
    archive: str = "archive"

    @property
    def state(self) -> Path:
        return self.nas / "vmstate"

    @property
    def archived(self) -> Path:
        return self.nas / self.archive

    def head(self) -> Snapshot:
        newest = max((self.state / "gen").iterdir())
        path = newest / "snapshot" if newest.is_dir() else newest
        return decode(path.read_bytes(), int(newest.name))

    def exports(self) -> Sequence[Any]:
        return ()


def look(disk: Disk, question: Question) -> Truth:
    """Answers the question."""
    head = disk.head()
    problems = list(
        promises.broken_at_once(
            disk, {directory: set(stamps) for directory, stamps in question.before.items()}
        )
    )
    if question.states is not None:
        problems += promises.broken(disk, question.states)
    return Truth(
        head.generation,
        {key: asdict(record) for key, record in head.contents.vms.items()},
        [identifier for identifier, row in head.contents.sessions.items() if row.state == "live"],
        {directory: sorted(stamps) for directory, stamps in promises.good_stamps(disk).items()},
        dict(_files(disk)),
        [problem for problem in problems if question.settled or not problem.startswith(_A_DAY)],
    )


def _files(disk: Disk) -> Iterator[tuple[str, str]]:
    for path in sorted(disk.nas.rglob("*")):
        if path.is_file() and not path.is_relative_to(disk.state):
            yield str(path.relative_to(disk.nas)), hashlib.sha256(path.read_bytes()).hexdigest()


def age(disk: Disk) -> None:
    """Lets a day pass."""
    for path in (
        *(disk.state / "tmp").iterdir(),
        *(disk.state / "node").iterdir(),
        *disk.state.glob("vmtool-dblock.*"),
    ):
        os.utime(path, (time.time() - 2 * 86400,) * 2, follow_symlinks=False)


def main(words: Sequence[str]) -> None:
    questions: Mapping[str, Mapping[str, Any]] = json.loads(words[0])
    answers = {}
    for directory, given in questions.items():
        disk, question = Disk(Path(directory)), Question(**given)
        answers[directory] = asdict(look(disk, question))
        if question.age:
            age(disk)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1:])
