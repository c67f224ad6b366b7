"""The first reading of a whole copy that took grains over from the one before it.

Every byte is compared with a digest that was made when that byte was made (`shared.ova.parts`), and
only then the SHA-256 is known and noted: what is computed from what lies on the NAS is never its
own proof. From then on the copy is like one that was read in full when it was made.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from shared.copies import sidecar_files
from shared.copies.copy_files import NasFiles, write_file
from shared.copies.names import final_name, partial_name
from shared.copies.sidecar import Sidecar
from shared.host.errors import CopyError
from shared.host.rate_limit import UNLIMITED, Pace
from shared.nas.nas_errors import reported
from shared.ova.check import OvaCheck, Progress, Sink
from shared.ova.index import GrainIndex
from shared.ova.parts_check import check_parts


def check_first(
    directory: Path,
    sidecar: Sidecar,
    *,
    name: str = "",
    progress: Progress = lambda _done, _total: None,
    sinks: Mapping[str, Sink] = MappingProxyType({}),
    pace: Pace = UNLIMITED,
) -> OvaCheck:
    """Reads the `.ova` of a copy (called `name`, if it is elsewhere) and its index in full.

    `sinks` get members' bytes meanwhile, by name, as in `check_parts`; so does `pace`.

    Raises `CopyError` that says what is wrong, `NasError` if they cannot be read.
    """
    if sidecar.parts is None or sidecar.index is None:
        raise CopyError("nothing is known of what it is made of")
    with closing(GrainIndex.open(directory / final_name(sidecar.stamp, "index"))) as index:
        if (index.size, index.sha256) != (sidecar.index.size, sidecar.index.sha256):
            raise CopyError("its index is not the one that was made with it")
        return check_parts(
            directory,
            name or final_name(sidecar.stamp, "ova"),
            sidecar.parts,
            index,
            progress=progress,
            sinks=sinks,
            pace=pace,
        )


def is_whole(directory: Path, name: str, sidecar: Sidecar) -> bool:
    """Whether this file is the `.ova` of that copy, every byte of it. Raises `NasError`."""
    try:
        check_first(directory, sidecar, name=name)
    except CopyError:
        return False
    return True


def note(
    files: NasFiles, directory: Path, sidecar: Sidecar, found: OvaCheck, claim: int
) -> Sidecar:
    """Notes that a published copy was read in full, and returns its new sidecar.

    `claim` is the one that the caller holds. After a crash the copy is as before, or noted. Raises
    `NasError`.
    """
    read = replace(sidecar, sha256=found.sha256, oldest_read="")
    temporary = partial_name(sidecar.stamp, claim, "sha256")
    with reported(f"write the digests of {sidecar.stamp}"):
        files.remove(directory, temporary)
        write_file(files, directory, temporary, read.checksum_lines())
        files.rename(directory, temporary, final_name(sidecar.stamp, "sha256"))
    sidecar_files.replace(files, directory, read, claim)
    return read
