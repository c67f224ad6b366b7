"""Getting one disk back from a copy, as a file."""

import errno
import os
from pathlib import Path
from typing import Final
from uuid import uuid4

from coordinator.restore.direct import told_as_damage, unpack
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.host.errors import CopyError, UsageError
from shared.ova.disk_reader import open_copy
from shared.ova.vdi_writing import RawFile, TargetError, VdiFile
from shared.tasks.noted_import import Progress
from shared.virtualbox import scratch

#: What file systems answer that have no second names for a file.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP})


def restore_disk(
    copy: Copy, number: int, target: Path, progress: Progress, *, only_look: bool = False
) -> int:
    """Writes one disk of the copy, numbered from 1, into a new file; returns its bytes.

    With `only_look` nothing is written.

    A `.vdi` is an image of VirtualBox, anything else the disk byte by byte, with holes. The file
    has its name only when every digest was right; what fails leaves nothing behind, and what is
    killed a hidden file `.NAME….partial`.

    Raises `CopyError`, `NasError`, `TargetError`, `UsageError` if there is a file of that name.
    """
    if copy.sidecar is None:
        raise CopyError(
            f"the copy {copy.stamp} cannot be used: {copy.problem}",
            hint="another one: `vmbackup-admin copies` shows what there is",
        )
    if os.path.lexists(target):
        raise UsageError(
            f"{target} is there already; a restore never overwrites anything", hint="another name"
        )
    with told_as_damage(copy):
        name, size = _find(copy.directory / final_name(copy.stamp, "ova"), number)
    if only_look:
        return size
    partial = target.with_name(f".{target.name}.{scratch.new_token()}.partial")
    vdi = target.suffix.lower() == ".vdi"
    try:
        with VdiFile(partial, size, uuid4()) if vdi else RawFile(partial, size) as file:
            with told_as_damage(copy):
                unpack(copy, {name: file}, progress)
            _name(partial, target)
    except OSError as error:
        raise TargetError(error, target) from None
    finally:
        partial.unlink(missing_ok=True)
    return size


def _name(partial: Path, target: Path) -> None:
    """Gives a whole file its name, in the place of nothing. Raises OSError."""
    try:
        os.link(partial, target)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(target):
            raise
        partial.rename(target)


def _find(source: Path, number: int) -> tuple[str, int]:
    """Name and size of the disk with this number, from one on, in an `.ova`.

    Raises `UsageError` if it has no such disk, `CopyError` if it is damaged, `NasError`.
    """
    with open_copy(source) as copy:
        if not 1 <= number <= len(copy.disks):
            raise UsageError(
                f"the copy has no disk {number}",
                hint=f"it has {len(copy.disks)}: they are numbered from 1",
            )
        disk = copy.disks[number - 1]
        if disk.problem:
            raise CopyError(disk.problem)
        return disk.name, disk.size
