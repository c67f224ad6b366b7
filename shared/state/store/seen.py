"""What this host remembers of a database, outside of the NAS, to notice a history that went back."""

import contextlib
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Final

log: Final = logging.getLogger(__name__)


class SeenGeneration:
    """The newest generation that this host has seen, kept in a local file if `path` is given."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.generation = 0
        self.checksum = ""
        if path is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                document = json.loads(path.read_text(encoding="utf-8"))
                self.generation, self.checksum = (
                    int(document["generation"]),
                    str(document["checksum"]),
                )

    def remember(self, generation: int, checksum: str) -> None:
        """Notes a generation.

        A note that cannot be written is done without: it only serves to raise an alarm.
        """
        self.generation, self.checksum = generation, checksum
        if self.path is None:
            return
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(
                json.dumps({"generation": generation, "checksum": checksum}), encoding="utf-8"
            )
            os.replace(temporary, self.path)
        except OSError as error:
            log.debug("generation not noted in %s: %s", self.path, error)
