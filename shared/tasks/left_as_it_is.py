"""What is left on the NAS as it is when the state database is made anew of the copies, in words.

Copies that do not count, moves and publications that were interrupted, and what belongs to nobody.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from shared.copies.catalogue import Copy
from shared.copies.survey import CopiesPlace, FoundVm, Survey
from shared.host.printable import quoted
from shared.state.records import VmRecord
from shared.state.states import State
from shared.tasks.records_from_copies import MadeOfCopies, in_directory

Kind = Literal["half moved", "half published", "does not count", "elsewhere", "without a record"]


@dataclass(frozen=True, slots=True)
class Left:
    """One thing. `vm` is the key of its VM in the new database; None: it has none."""

    vm: str | None
    kind: Kind
    text: str

    def to_json(self) -> dict[str, Any]:
        """As commands show it."""
        return asdict(self)

    @property
    def line(self) -> str:
        """As a sentence for people."""
        return f"left as it is: {f'{self.vm}: ' if self.vm else ''}{self.text}"


def of_all(made: MadeOfCopies, found: Survey) -> list[Left]:
    """All that is left, sorted by VM."""
    records = sorted(made.contents.vms.values(), key=lambda record: record.key)
    left = [each for record in records for each in _of(record, found.vms[record.uuid])]
    for vm in made.homeless:
        where = ", ".join(sorted(str(place.path) for place in vm.places))
        text = f"copies of {vm.name} (UUID {vm.uuid}) are in another VM's directory: {where}"
        left.append(Left(None, "without a record", text))
    unknown = [f"nothing tells whose {place.path} is" for place in found.unknown]
    return [*left, *(Left(None, "without a record", text) for text in unknown)]


def _of(record: VmRecord, vm: FoundVm) -> Iterator[Left]:
    own = in_directory(vm, record.directory)
    if text := _half_moved(record, own):
        yield Left(record.key, "half moved", text)
    for copy, _ in own:
        if not copy.good:
            yield Left(record.key, "does not count", f"{copy.stamp}: {copy.problem}")
    for stamp in vm.half_published:
        yield Left(record.key, "half published", f"{stamp} was not put in place; it is made again")
    for place in vm.places:
        if place.directory != record.directory:
            text = f"copies of it without a record are in {place.path}"
            yield Left(record.key, "elsewhere", text)


def _half_moved(record: VmRecord, own: Sequence[tuple[Copy, CopiesPlace]]) -> str:
    """Which of its copies are where they do not belong, and what settles it; empty: none is.

    One that is in both places may be of a move or somebody's: nobody can tell which way it shall
    go, so both ways are named, in the order in which they work.
    """
    archived = record.status == State.ARCHIVED
    there = {copy.stamp for copy, place in own if place.archived == archived}
    away = [copy.stamp for copy, place in own if place.archived != archived]
    once = ", ".join(stamp for stamp in away if stamp not in there)
    twice = ", ".join(stamp for stamp in away if stamp in there)
    if not away:
        return ""
    found = [f"moved by half: {once} {'not yet in' if archived else 'in'} the archive"] * bool(once)
    if twice:
        both = "here and in the archive" if archived else "in the archive and here"
        found.append(f"moved by half or copied by somebody: {twice} {both}, too")
    first, then = (
        f"`vmbackup-admin {command} {quoted(record.key)}`"
        for command in (("activate", "archive") if archived else ("archive", "activate"))
    )
    return f"{'; '.join(found)}; {first} moves all; {then} after it moves all back"
