"""Copies that took grains over from the one before, so that nobody has read them as a whole."""

import threading
from pathlib import Path
from uuid import UUID

from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import SideFile
from shared.export.delta import Delta, DeltaPlan
from shared.ova.compression import zlib_codec
from shared.ova.index import GrainIndex, grain_digest
from shared.ova.ova_writing import OvaWriter
from shared.ova.vmdk import GRAIN
from shared.ova.vmdk_units import UnitSettings, compress_unit
from shared.ova.vmdk_writing import VmdkLayout
from tests.support import copies as make
from tests.support.disk_files import pattern

GRAINS = 6


def put_unread(
    directory: Path, stamp: str, *, prefix: str = "", seed: int = 0, **changes: object
) -> Sidecar:
    """The files of such a copy with one disk.

    Published; or only `.ova` and `.index` under partial names that begin with `prefix`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ova, index = (directory / f"{prefix or stamp}.{suffix}" for suffix in ("ova", "index"))
    writer = OvaWriter(ova, modified=1, cancelled=threading.Event())
    with Delta(DeltaPlan(index), ova) as delta:
        ovf = make.OVF.format('<File ovf:id="file1" ovf:href="d.vmdk"/>').encode()
        writer.add("vm.ovf", ovf)
        writer.begin("d.vmdk")
        layout = VmdkLayout("d.vmdk", GRAINS * GRAIN, 7, UUID(int=1), position=writer.position)
        disk = delta.begin("SATA-0-0", writer.position)
        disk.put_between(layout.begin(), writer)
        data = pattern(seed, GRAINS * GRAIN)
        unit = compress_unit(0, data, UnitSettings(zlib_codec(1), False, grain_digest))
        at = layout.sectors
        list(layout.add(unit))
        writer.take(0, -1, 0)  # nobody knows the digest of the disk from here on
        disk.put(unit, at, writer)
        for piece in layout.end():
            disk.put_between(piece, writer)
        writer.end()
        members = writer.finish("vm.mf")
        delta.finish(members, writer.position)
        made = delta.parts(writer, members)
        assert made is not None
    writer.close()
    opened = GrainIndex.open(index)
    opened.close()
    side = make.sidecar(
        ova.read_bytes(),
        stamp,
        index=SideFile(opened.size, opened.sha256),
        parts=made.parts,
        oldest_read="2026-11-20T00:00:00Z",
        **{"sha256": "", **changes},
    )
    if not prefix:
        (directory / f"{stamp}.json").write_bytes(side.render())
        (directory / f"{stamp}.sha256").write_bytes(side.checksum_lines())
    return side
