"""Writes the disks of a VM into its OVA, as long as what must hold meanwhile does."""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

from shared.export.delta import Delta
from shared.export.disk_delta import DiskDelta
from shared.export.pipeline import CompressionSettings, Pipeline, ReadMeter
from shared.ova.disk import Chain
from shared.ova.index import grain_digest
from shared.ova.ova_writing import OvaWriter
from shared.ova.ovf import DescribedDisk
from shared.ova.vmdk import SECTOR
from shared.ova.vmdk_units import CompressedUnit
from shared.ova.vmdk_writing import VmdkLayout


class Guard(Protocol):
    """What must hold while disks are read: a lock, or room for clones."""

    def check(self) -> None:
        """Raises what is wrong, if that is certain by now."""


class LockedSink:
    """Passes the bytes of a disk on to the OVA, as long as all that must hold does.

    Through the delta, if there is one.
    """

    def __init__(
        self,
        ova: OvaWriter,
        guards: Sequence[Guard],
        layout: VmdkLayout,
        delta: DiskDelta | None,
    ) -> None:
        self._ova = ova
        self._guards = guards
        self._layout = layout
        self._delta = delta

    def put(self, data: bytes, unit: CompressedUnit | None) -> None:
        """See `shared.export.pipeline.DiskSink`."""
        for guard in self._guards:
            guard.check()
        if self._delta is None:
            self._ova.write(data)
        elif unit is None:
            self._delta.put_between(data, self._ova)
        else:
            self._delta.put(unit, self._layout.sectors - unit.sectors, self._ova)


def write_disks(
    ova: OvaWriter,
    parts: Sequence[tuple[DescribedDisk, Chain]],
    settings: CompressionSettings,
    guards: Sequence[Guard],
    meter: ReadMeter,
    cancelled: threading.Event,
    delta: Delta | None,
) -> None:
    """Writes the disks, in VirtualBox's order. Raises what the guards, images and NAS raise."""
    units = settings.units
    if delta:
        units = replace(units, digest=grain_digest, alignment=delta.alignment)
    pipeline = Pipeline(replace(settings, units=units), cancelled)
    try:
        for file, chain in parts:
            ova.begin(file.name)
            alignment = delta.alignment if delta else SECTOR
            layout = VmdkLayout(
                file.name,
                chain.size,
                secrets.randbits(32),
                uuid4(),
                position=ova.position,
                alignment=alignment,
            )
            part = delta.begin(file.attachment.label, ova.position) if delta else None
            sink = LockedSink(ova, guards, layout, part)
            unchanged = delta.unchanged.get(file.attachment.label) if delta else None
            pipeline.copy(chain, layout, sink, meter, unchanged)
            ova.end()
    finally:
        pipeline.close()
