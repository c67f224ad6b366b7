"""The space that a copy needs on the NAS, estimated before its export; sizes in words."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shared.copies.sidecar import Sidecar
from shared.host.errors import NasError

#: Headers, tables and the .ovf of a VM without data; packing what cannot be packed costs a
#: thousandth.
_OVERHEAD_BYTES: Final = 64 << 20
_GROWTH: Final = 1.02
#: How much worse than last time the data may pack.
_MARGIN: Final = 1.25


def allocated(disks: Iterable[Path]) -> int:
    """Bytes that the disk images (with their chains) take on this host.

    Sparse parts do not count, a missing one counts nothing.
    """
    return sum(_allocated(path) for path in set(disks))


def needed(source_bytes: int, last: Sidecar | None) -> int:
    """An estimate of the next copy's bytes, rather too much than too little.

    `source_bytes` is `allocated` of the VM's disks now. It is the upper bound. The last copy, if it
    says what its disks took, tells how well this VM's data packs: then the estimate follows that,
    with a margin.
    """
    bound = int(source_bytes * _GROWTH) + _OVERHEAD_BYTES
    if last is None or not last.source_bytes or not last.size:
        return bound
    packed = last.size / last.source_bytes
    return min(bound, int(source_bytes * packed * _MARGIN) + _OVERHEAD_BYTES)


def check_room(free: int, needed_bytes: int, reserve: int) -> None:
    """Make sure that `reserve` of `free` bytes stay free beside a copy of `needed_bytes`.

    Raises `NasError` with the figures.
    """
    if free - needed_bytes < reserve:
        raise NasError(
            (
                f"there is no room for the copy: it needs about {human(needed_bytes)}, "
                f"{human(free)} are free, {human(reserve)} must stay free"
            ),
            hint=(
                f"free {human(needed_bytes + reserve - free)} on the NAS, keep fewer copies "
                f"(backup.keep_last), or lower nas.reserve"
            ),
        )


def human(size: int) -> str:
    """`size` bytes for people: `1.5 GiB`."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def coarse(size: int) -> str:
    """`size` bytes for people, rounded up in steps of about a tenth.

    So it stays the same while a disk grows by a little.
    """
    step = 1 << max(size.bit_length() - 4, 0)
    return human(-(-size // step) * step)


def _allocated(path: Path) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0  # the export itself will say what is wrong with it
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * 512)
