"""Noticing a history that went back: a NAS that lost writes, or was restored from a backup.

Also one that begins anew, because the database was made of the copies. This host remembers, outside
of the NAS, the newest generation that it saw. That another one is right is said by a person:
`vmbackup-admin statedb accept`.
"""

import logging
from pathlib import Path
from typing import Final

from shared.host.errors import ConfigurationError, DatabaseDamagedError
from shared.host.notes import Note
from shared.state.store.history_operations import ReadChecksum
from shared.state.store.operations import ReadGeneration
from shared.state.store.snapshot import Snapshot, decode
from shared.state.store.state_files import StateFiles

log: Final = logging.getLogger(__name__)

#: How far behind the head the generation that this host has seen is certainly still in `gen/`.
_CHAIN_CHECKED: Final = 200


class SeenHistory:
    """The newest generation that this host has seen, kept in a note if `path` is given.

    `rebuilt` is when the database that is there was made anew, as its version file says. A note
    that cannot be read or written is done without: it only serves to raise an alarm. What is
    `bundled` generations behind the head, or more, is looked for in the history.
    """

    def __init__(
        self, path: Path | None, rebuilt: str = "", *, bundled: int = _CHAIN_CHECKED
    ) -> None:
        self._bundled = bundled
        self.generation = 0
        self.checksum = ""
        self.rebuilt = rebuilt
        self._there = rebuilt
        self._note = Note(path, "the newest generation seen") if path is not None else None
        if self._note is not None:
            self._recall(self._note)

    def check(self, files: StateFiles, head: Snapshot, *, synced: bool) -> None:
        """Compares the head with what this host has seen, and remembers it.

        What may not be on the disk yet (not `synced`) is not remembered, but what it was built on.
        Raises `DatabaseDamagedError` if the head does not follow from what was seen.
        """
        if what := self.differs(files, head):
            raise DatabaseDamagedError(
                f"the history of the state database was rolled back or replaced: {what}",
                hint="the NAS lost writes, was restored from a backup, or the database was made "
                "anew. If that was on purpose: `vmbackup-admin statedb accept` on each host; if "
                "not, look at the NAS first",
            )
        if self.generation == head.generation:
            return
        if synced:
            self._remember(head.generation, head.checksum)
        elif head.generation - 1 > self.generation:
            self._remember(head.generation - 1, head.header.previous)

    def differs(self, files: StateFiles, head: Snapshot) -> str:
        """How the head does not follow from what this host has seen, in words; empty if it does."""
        if not self.generation:
            return ""
        if self.rebuilt != self._there:
            made = f"was made anew from the copies ({self._there})" if self._there else "was not"
            return f"it {made}, and this host has seen generation {self.generation} of another one"
        if self.generation > head.generation:
            return (
                f"it ends at generation {head.generation}, but this host has seen {self.generation}"
            )
        if self.generation == head.generation:
            same = self.checksum == head.checksum
        elif head.generation - self.generation < self._bundled:
            data = files.perform(ReadGeneration(self.generation))
            same = data is None or decode(data, self.generation).checksum == self.checksum
        else:  # this host was away: what it saw is in the history, or was removed for its age
            checksum = files.perform(ReadChecksum(self.generation))
            same = checksum in ("", self.checksum)
        return (
            "" if same else f"generation {self.generation} is not the one that this host has seen"
        )

    def accept(self, head: Snapshot) -> None:
        """From now on this host has seen `head`, and nothing that went before in another history.

        Raises `ConfigurationError` if that cannot be remembered.
        """
        self.rebuilt = self._there
        self.generation, self.checksum = head.generation, head.checksum
        if self._note is not None:
            self._note.write(self._document())

    def _recall(self, note: Note) -> None:
        try:
            document = note.read()
        except ConfigurationError as error:
            log.debug("%s", error.message)
            return
        generation, checksum = document.get("generation"), document.get("checksum")
        if type(generation) is int and generation >= 0 and isinstance(checksum, str):
            self.generation, self.checksum = generation, checksum
            self.rebuilt = str(document.get("rebuilt", ""))

    def _document(self) -> dict[str, object]:
        said = {"rebuilt": self.rebuilt} if self.rebuilt else {}
        return {"generation": self.generation, "checksum": self.checksum, **said}

    def _remember(self, generation: int, checksum: str) -> None:
        self.generation, self.checksum = generation, checksum
        if self._note is not None:
            try:
                self._note.write(self._document())
            except ConfigurationError as error:
                log.debug("%s", error.message)
