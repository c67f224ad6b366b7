"""What differs between two generations, as lines: those that went, and those that came.

Two generations that follow each other are alike but for some lines. So the rows that a commit
changed are read from these lines alone, and all others are never decoded.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shared.host.documents import load
from shared.nas.reading import LIMIT_BYTES
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import VmRecord

#: The first line of one: the numbers of each hunk.
_HUNKS: Final = re.compile(rb"(?:[0-9]{1,12},[0-9]{1,12},[0-9]{1,12}(?: |$))*")


@dataclass(frozen=True, slots=True)
class Hunk:
    """So many lines stay, then so many go, and so many come in their place."""

    stay: int
    go: int
    come: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How the lines of one generation become those of the next; what is not named stays."""

    hunks: tuple[Hunk, ...]
    gone: tuple[bytes, ...]
    came: tuple[bytes, ...]


def between(old: Sequence[bytes], new: Sequence[bytes]) -> Difference:
    """What makes `new` out of `old`. It is small where lines that both have keep their order."""
    known, wanted = set(old), set(new)
    hunks: list[Hunk] = []
    gone: list[bytes] = []
    came: list[bytes] = []
    here = there = 0
    while here < len(old) or there < len(new):
        start = here
        while here < len(old) and there < len(new) and old[here] == new[there]:
            here, there = here + 1, there + 1
        stay, went, entered = here - start, len(gone), len(came)
        while here < len(old) and (old[here] not in wanted or there == len(new)):
            gone.append(old[here])
            here += 1
        while there < len(new) and (new[there] not in known or here == len(old)):
            came.append(new[there])
            there += 1
        moved = here < len(old) and there < len(new) and old[here] != new[there]
        if moved and len(gone) == went and len(came) == entered:
            gone.append(old[here])  # both lines are in both, in another order
            came.append(new[there])
            here, there = here + 1, there + 1
        hunks.append(Hunk(stay, len(gone) - went, len(came) - entered))
    return Difference(tuple(hunks), tuple(gone), tuple(came))


def applied(difference: Difference, old: Sequence[bytes]) -> list[bytes]:
    """The lines that `old` becomes. Raises ValueError if it is not what the difference is of."""
    made: list[bytes] = []
    here = went = entered = 0
    for hunk in difference.hunks:
        made += old[here : here + hunk.stay]
        here += hunk.stay + hunk.go
        if tuple(old[here - hunk.go : here]) != difference.gone[went : went + hunk.go]:
            raise ValueError("the lines before are others")
        went += hunk.go
        made += difference.came[entered : entered + hunk.come]
        entered += hunk.come
    if here != len(old):
        raise ValueError("the lines before are others")
    return made


def render(difference: Difference) -> bytes:
    """The bytes of a difference."""
    hunks = " ".join(f"{hunk.stay},{hunk.go},{hunk.come}" for hunk in difference.hunks)
    return b"\n".join([hunks.encode(), *difference.gone, *difference.came]) + b"\n"


def extent(record: bytes) -> tuple[int, int]:
    """Of how many lines a difference is, and how many they become. Raises ValueError.

    Much quicker than `parse`, and refuses all that it refuses.
    """
    stay, go, come = map(sum, _counts(record))
    if record[:-1].count(b"\n") != go + come:
        raise ValueError("it has what is no difference")
    return stay + go, stay + come


def parse(record: bytes) -> Difference:
    """The difference that `render` wrote. Raises ValueError."""
    extent(record)
    hunks = tuple(Hunk(*each) for each in zip(*_counts(record), strict=True))
    lines = record[:-1].split(b"\n")[1:]
    gone = sum(hunk.go for hunk in hunks)
    return Difference(hunks, tuple(lines[:gone]), tuple(lines[gone:]))


def _counts(record: bytes) -> tuple[list[int], list[int], list[int]]:
    """How many lines stay, go and come in each hunk."""
    first = record[: record.find(b"\n", 0, -1)]
    if not _HUNKS.fullmatch(first):
        raise ValueError("it has what is no difference")
    numbers = list(map(int, first.replace(b",", b" ").split()))
    return numbers[::3], numbers[1::3], numbers[2::3]


def rows(lines: Iterable[bytes]) -> Contents:
    """The records among some lines of a generation. Lines that are none are passed over."""
    nodes: dict[str, NodeRecord] = {}
    sessions: dict[str, SessionRecord] = {}
    vms: dict[str, VmRecord] = {}
    for document in _documents(lines):
        with contextlib.suppress(ValueError):
            if "key" in document:
                record = VmRecord.from_json(document)
                vms[record.key] = record
            elif "id" in document:
                session = SessionRecord.from_json(document)
                sessions[session.id] = session
            else:
                node = NodeRecord.from_json(document)
                nodes[node.name] = node
    return Contents(0, nodes, sessions, vms)


def _documents(lines: Iterable[bytes]) -> Iterator[dict[str, object]]:
    for line in lines:
        if line.startswith(b"{"):
            with contextlib.suppress(ValueError, RecursionError):
                yield load(line.decode("utf-8", "surrogatepass"), LIMIT_BYTES)
