"""Noticing a history that went back: a NAS that lost writes, or was restored from a backup.

This host remembers, outside of the NAS, the newest generation that it saw.
"""

import logging
from pathlib import Path
from typing import Final

from shared.host.errors import ConfigurationError, DatabaseDamagedError
from shared.host.notes import Note
from shared.state.store.files import StateFiles
from shared.state.store.operations import ReadGeneration
from shared.state.store.snapshot import Snapshot, decode

log: Final = logging.getLogger(__name__)

#: How far behind the head the generation that this host has seen is still compared: within what is
#: never pruned.
_CHAIN_CHECKED: Final = 200


class SeenHistory:
    """The newest generation that this host has seen, kept in a note if `path` is given.

    A note that cannot be read or written is done without: it only serves to raise an alarm.
    """

    def __init__(self, path: Path | None) -> None:
        self.generation = 0
        self.checksum = ""
        self._note = Note(path, "the newest generation seen") if path is not None else None
        if self._note is not None:
            self._recall(self._note)

    def check(self, files: StateFiles, head: Snapshot, *, synced: bool) -> None:
        """Compares the head with what this host has seen, and remembers it.

        What may not be on the disk yet (not `synced`) is not remembered, but what it was built on.
        Raises `DatabaseDamagedError` if the head does not follow from what was seen.
        """
        if self.generation > head.generation:
            self._went_back(
                f"it ends at generation {head.generation}, but this host has seen {self.generation}"
            )
        elif self.generation == head.generation:
            if self.checksum != head.checksum:
                self._went_back(
                    f"generation {head.generation} is not the one that this host has seen"
                )
            return
        elif self.generation and head.generation - self.generation < _CHAIN_CHECKED:
            data = files.perform(ReadGeneration(self.generation))
            if data is not None and decode(data, self.generation).checksum != self.checksum:
                self._went_back(
                    f"generation {self.generation} is not the one that this host has seen"
                )
        if synced:
            self._remember(head.generation, head.checksum)
        elif head.generation - 1 > self.generation:
            self._remember(head.generation - 1, head.header.previous)

    def _recall(self, note: Note) -> None:
        try:
            document = note.read()
        except ConfigurationError as error:
            log.debug("%s", error.message)
            return
        generation, checksum = document.get("generation"), document.get("checksum")
        if type(generation) is int and generation >= 0 and isinstance(checksum, str):
            self.generation, self.checksum = generation, checksum

    def _remember(self, generation: int, checksum: str) -> None:
        self.generation, self.checksum = generation, checksum
        if self._note is not None:
            try:
                self._note.write({"generation": generation, "checksum": checksum})
            except ConfigurationError as error:
                log.debug("%s", error.message)

    def _went_back(self, what: str) -> None:
        raise DatabaseDamagedError(
            f"the history of the state database was rolled back or replaced: {what}",
            hint="the NAS lost writes or was restored from a backup. If that was on purpose, "
            f"delete {self._note.path if self._note else 'nothing'} on each host; if not, look at "
            "the NAS first",
        )
