"""Sidecars as files on the NAS: one is read, and replaced by another one at once.

What they say is in `sidecar`.
"""

from pathlib import Path

from shared.copies.copy_files import NasFiles, write_file
from shared.copies.names import final_name, partial_name
from shared.copies.sidecar import LIMIT_BYTES, Sidecar, parse
from shared.host.errors import CopyError
from shared.nas.nas_errors import reported
from shared.nas.reading import read_file


def read(directory: Path, stamp: str) -> Sidecar:
    """The sidecar of a published copy.

    Raises `CopyError` if it is damaged or another copy's, `NasError` if it cannot be read.
    """
    name = final_name(stamp, "json")
    with reported(f"read {name}"):
        return read_named(directory, name, stamp)


def read_named(directory: Path, name: str, stamp: str) -> Sidecar:
    """The sidecar in the file `name`, which must be that of the copy `stamp`.

    Raises `CopyError`, or OSError as the system says it.
    """
    sidecar = parse(read_file(directory / name, LIMIT_BYTES, follow=False))
    if sidecar.stamp != stamp:
        raise CopyError(f"{name} is the sidecar of another copy ({sidecar.stamp})")
    return sidecar


def replace(files: NasFiles, directory: Path, sidecar: Sidecar, claim: int) -> None:
    """Replaces the sidecar of a published copy, for instance after a verification.

    `claim` is the one that the caller holds.

    At every moment, and after a crash, the old or the new sidecar is there, whole. Raises
    `NasError`.
    """
    temporary = partial_name(sidecar.stamp, claim, "json")
    with reported(f"write the sidecar of {sidecar.stamp}"):
        files.remove(directory, temporary)
        write_file(files, directory, temporary, sidecar.render())
        files.rename(directory, temporary, final_name(sidecar.stamp, "json"))
        files.sync_directory(directory)
