"""The files in which a host keeps digests of disks (see `shared.export.raw_digests`)."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Of the state directory of a host.
_DIRECTORY: Final = "digests"


@dataclass(frozen=True, slots=True)
class DigestFile:
    """That of a VM.

    `claim`: of a copy that is made, or was not finished, under it; 0: it is kept.
    """

    path: Path
    uuid: str
    claim: int

    def remove(self) -> None:
        """What cannot be removed now a later tick removes."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def path_of(state_directory: Path, repository: str, uuid: str) -> Path:
    """Where the digests of the last copy of a VM are kept."""
    return state_directory / _DIRECTORY / f"{repository}-{uuid}"


def digest_files(state_directory: Path, repository: str) -> Sequence[DigestFile]:
    """All that there are for a repository."""
    try:
        names = sorted(os.listdir(state_directory / _DIRECTORY))
    except OSError:
        return ()
    found = []
    for name in names:
        uuid, _, claim = name.removeprefix(f"{repository}-").partition(".")
        if name.startswith(f"{repository}-") and (not claim or claim.isdecimal()):
            found.append(DigestFile(state_directory / _DIRECTORY / name, uuid, int(claim or 0)))
    return found
