"""Copies of disks by the parts of the export engine, without VirtualBox."""

import hashlib
import os
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from shared.export.delta import Delta, DeltaPlan
from shared.export.disk_writing import LockedSink
from shared.export.pipeline import CompressionSettings, Pipeline, ReadMeter
from shared.ova.compression import zlib_codec
from shared.ova.disk import Chain
from shared.ova.index import grain_digest
from shared.ova.ova_writing import OvaWriter
from shared.ova.vmdk_units import UnitSettings
from shared.ova.vmdk_writing import VmdkLayout
from tests.support.disk_files import Vdi, pattern

BLOCK = 65536


@dataclass
class Copy:
    """A copy that was made, and how."""

    ova: Path
    index: Path
    copied: int
    sent: str

    def disks(self) -> list[bytes]:
        """The disks; AssertionError unless the manifest is right."""
        with tarfile.open(self.ova) as archive:
            contents = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
        manifest = contents.pop("vm.mf").decode()
        assert manifest == "".join(
            f"SHA256 ({name}) = {hashlib.sha256(data).hexdigest()}\n"
            for name, data in contents.items()
        )
        return list(contents.values())


def make(
    folder: Path,
    name: str,
    images: Mapping[str, Vdi],
    previous: Copy | None = None,
    *,
    whole_every: int = 10,
    aligned: bool = False,
) -> Copy:
    """A copy of disks by the place where they are attached, in `folder`."""
    index, ova = folder / f"{name}.index", folder / f"{name}.ova"
    plan = DeltaPlan(
        index,
        previous.ova if previous else None,
        previous.index if previous else None,
        whole_every,
        aligned,
    )
    cancelled = threading.Event()
    archive = OvaWriter(ova, modified=1, cancelled=cancelled)
    pipeline = Pipeline(
        CompressionSettings(
            2, UnitSettings(zlib_codec(1), digest=grain_digest, alignment=plan.alignment)
        ),
        cancelled,
    )
    try:
        with Delta(plan, ova) as delta, tempfile.TemporaryDirectory() as disks:
            for place, image in images.items():
                with Chain.open([image.write(Path(disks) / "disk.vdi")]) as chain:
                    archive.begin(f"{place}.vmdk")
                    layout = VmdkLayout(
                        place,
                        chain.size,
                        int.from_bytes(os.urandom(4)),
                        UUID(int=1),
                        position=archive.position,
                        alignment=plan.alignment,
                    )
                    pipeline.copy(
                        chain,
                        layout,
                        LockedSink(archive, [], layout, delta.begin(place, archive.position)),
                        ReadMeter(),
                    )
                    archive.end()
            delta.finish(archive.finish("vm.mf"), archive.position)
            assert archive.close()
        return Copy(ova, index, archive.copied, delta.reason)
    finally:
        pipeline.close()
        archive.close()


def disk(**changes: int) -> Vdi:
    """40 blocks of data; `b7=3` puts another pattern into block 7, 0 frees it."""
    seeds = {number: 100 + number for number in range(40)} | {
        int(name[1:]): seed for name, seed in changes.items()
    }
    return Vdi(64 * BLOCK, {number: pattern(seed, BLOCK) for number, seed in seeds.items() if seed})
