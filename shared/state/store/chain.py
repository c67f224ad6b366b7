"""Following the chain of generations, the oldest first, and noting where it is broken."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.errors import DatabaseDamagedError, DatabaseVersionError
from shared.state.contents import Contents
from shared.state.store.anchor import Anchor
from shared.state.store.bundle import BundleName
from shared.state.store.generations import follows, read_from_file, read_number
from shared.state.store.header import NO_PREVIOUS, decode_header
from shared.state.store.layout import unreadable_numbers
from shared.state.store.snapshot import Snapshot, decode


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with the database, and what to do about it.

    `harmless`: nothing is at risk, workers go on.
    """

    what: str
    hint: str
    harmless: bool = False


SET_ASIDE: Final = "vmbackup-admin statedb check --set-aside"
OLDER: Final = "older ones serve the log only: nothing needs to be done"
_GAP: Final = "the log has a gap there; nothing else depends on them"


class GenerationChain:
    """What was found so far. `current` are the numbers in `gen/`, oldest first.

    Of older generations only headers and checksums are read.
    """

    def __init__(self, root: Path, current: Sequence[int], anchor: Anchor | None) -> None:
        self._root = root
        self._current = frozenset(current)
        self._anchor = anchor
        self.newest = current[-1] if current else 0
        self.oldest = self.examined = 0
        self.findings: list[Finding] = []
        #: The last good one.
        self.before: Snapshot | None = None
        self._lost: list[BundleName] = []
        self._set_aside = frozenset(unreadable_numbers(root))

    def lose(self, name: BundleName, problem: str) -> None:
        """Notes a bundle that cannot be read."""
        self._lost.append(name)
        self.findings.append(Finding(problem, OLDER))

    def examine(self, number: int, data: bytes | None) -> None:
        """Checks a generation against the one before; `data` None: it has a file of its own."""
        try:
            data = read_from_file(self._root, number) if data is None else data
            if data is None:  # moved to the history or removed since it was listed
                return
            self._note(number)
            snapshot = self._decoded(number, data)
        except (DatabaseDamagedError, DatabaseVersionError) as error:
            damaged = isinstance(error, DatabaseDamagedError)
            self._find(error.message, self._aside(number) if damaged else error.hint)
            return
        if self.before is None:
            self._begin(snapshot)
        elif self.before.generation + 1 == number and not follows(snapshot, self.before):
            what = f"generation {number} does not follow from generation {self.before.generation}"
            self._find(what, self._aside(number))
            if number == self.newest:
                return
        else:
            self._find_gap(self.before.generation + 1, number - 1)
        self.before = snapshot

    def _note(self, number: int) -> None:
        self.examined += 1
        self.oldest = self.oldest or number
        self.newest = max(self.newest, number)

    def _decoded(self, number: int, data: bytes) -> Snapshot:
        if number in self._current:
            return decode(data, number)
        header, checksum = decode_header(data, number)
        return Snapshot(header, Contents(), checksum)

    def _begin(self, snapshot: Snapshot) -> None:
        """Checks the first good one against what is known of where the chain begins."""
        number, anchor = snapshot.generation, self._anchor
        if number == 1 and snapshot.header.previous != NO_PREVIOUS:
            self._find("generation 1 claims to follow another one", self._aside(number))
        elif anchor is not None and number == anchor.number + 1:
            if anchor.checksum not in ("", snapshot.header.previous):
                what = (
                    f"generation {number} does not follow from the one that was removed before it"
                )
                self._find(what, self._aside(number))
        elif anchor is not None:
            self._find_gap(anchor.number + 1, number - 1)

    def _find_gap(self, first: int, last: int) -> None:
        lost = any(name.first <= last and name.last >= first for name in self._lost)
        lost = lost or self._set_aside.issuperset(range(first, last + 1))
        if first <= last and not lost and self._is_absent(first):
            self._find(f"generations {first} to {last} are missing", _GAP)

    def _is_absent(self, number: int) -> bool:
        try:
            return read_number(self._root, number) is None
        except (DatabaseDamagedError, DatabaseVersionError):
            return False

    def _aside(self, number: int) -> str:
        return f"{SET_ASIDE} {number}" if number == self.newest else OLDER

    def _find(self, what: str, hint: str) -> None:
        self.findings.append(Finding(what, hint))
