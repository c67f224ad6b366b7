"""What the copy before has of a VM's disks: by clones of them, or by digests of what was read."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from shared.export.compared_disk import ComparedDisk
from shared.export.delta import Delta
from shared.export.freezing import Freezer
from shared.export.raw_digests import RawDigests
from shared.export.takeover import PreviousDisk
from shared.frozen.not_frozen import NotFrozenError
from shared.host.errors import DiskImageError
from shared.ova.disk import Chain
from shared.ova.ovf import DescribedDisk

log: Final = logging.getLogger(__name__)


def unchanged(
    freezer: Freezer | None,
    digests: RawDigests | None,
    delta: Delta,
    parts: Sequence[tuple[DescribedDisk, Chain]],
    stack: ExitStack,
) -> Mapping[str, PreviousDisk | ComparedDisk]:
    """What the copy before has of the disks, by their places.

    The `stack` closes what is opened for that.
    """
    if freezer and freezer.frozen:
        return _of_clones(freezer, delta, parts, stack)
    return _compared(digests, delta, parts, stack) if digests else {}


def _compared(
    noted: RawDigests,
    delta: Delta,
    parts: Sequence[tuple[DescribedDisk, Chain]],
    stack: ExitStack,
) -> Mapping[str, ComparedDisk]:
    """What the copy before has of disks that are read, by the digests that they had then."""
    last = noted.last()
    if last:
        stack.callback(last.close)
    hashing = noted.begin(last.hash if last else None)
    found = {}
    for file, _ in parts:
        place = file.attachment.label
        section = delta.previous(place, last.stamp, last.index) if last else None
        digests = last.grains(place) if last and section else ()
        found[place] = ComparedDisk(place, noted, hashing, section, digests)
    return found


def _of_clones(
    freezer: Freezer, delta: Delta, parts: Sequence[tuple[DescribedDisk, Chain]], stack: ExitStack
) -> Mapping[str, PreviousDisk]:
    """What of frozen disks need not be read, by their places."""
    found: dict[str, PreviousDisk] = {}
    kept = freezer.kept()
    if kept is None:
        return found
    for file, chain in parts:
        place = file.attachment.label
        images, section = kept.disks.get(place), delta.previous(place, kept.stamp, kept.index)
        if images and section:
            try:
                found[place] = PreviousDisk.of_clones(section, images, chain, stack)
            except (NotFrozenError, DiskImageError, OSError) as error:
                log.info("the disk %s is read in full: %s", place, error)
    return found
