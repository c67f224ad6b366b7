"""What Python costs the parallel engine.

Its CPU time, against that of a plain loop which asks for the same work.

The loop reads the data of the disk, compresses each grain and inflates it again, hashes and writes
what comes out, and does nothing else: no threads, no layout, no tables, no zeros looked for. What
the engine needs beyond that is its overhead.
"""

import hashlib
import os
import resource
import secrets
import threading
from pathlib import Path
from typing import Final
from uuid import uuid4

from deploy.bench.report import Report
from deploy.bench.second_copies import data_start
from shared.export.disk_writing import LockedSink
from shared.export.pipeline import CompressionSettings, Pipeline, ReadMeter
from shared.ova.compression import Codec, best_codec
from shared.ova.disk import Chain
from shared.ova.ova_writing import OvaWriter
from shared.ova.vmdk import GRAIN, SECTOR
from shared.ova.vmdk_units import UnitSettings
from shared.ova.vmdk_writing import VmdkLayout

#: Of the engine's CPU time, at most this part.
AIM: Final = 10.0
_ROUNDS: Final = 5
_BLOCK: Final = 2**20


def measure(report: Report, disk: Path) -> None:
    """Prints the share.

    Of each the round that needed least counts: other work on the machine only ever adds.
    """
    codec, target = best_codec(), disk.with_suffix(".overhead")
    needed: dict[str, list[float]] = {"plain": [], "engine": []}
    for _ in range(_ROUNDS):
        for name, run in (("plain", _plain), ("engine", _engine)):
            before = _cpu()
            run(disk, target, codec)
            needed[name].append(_cpu() - before)
            target.unlink()
    plain, engine = min(needed["plain"]), min(needed["engine"])
    report.figure(
        "CPU of the engine, of a plain loop in one thread",
        f"{engine:.2f} s, {plain:.2f} s ({codec.name})",
    )
    report.judged("Python overhead, of the engine's CPU", 100 * (engine - plain) / engine, "%", AIM)


def _plain(disk: Path, target: Path, codec: Codec) -> None:
    digest = hashlib.sha256()
    with disk.open("rb", buffering=0) as source, target.open("wb", buffering=0) as file:
        source.seek(data_start(source))
        while block := source.read(_BLOCK):
            parts = []
            for position in range(0, len(block), GRAIN):
                grain = block[position : position + GRAIN]
                packed = codec.compress(grain)
                if codec.decompress(packed) != grain:
                    raise ValueError("not what was compressed")
                parts.append(packed)
            unit = b"".join(parts)
            digest.update(unit)
            file.write(unit)
        os.fsync(file.fileno())


def _engine(disk: Path, target: Path, codec: Codec) -> None:
    cancelled = threading.Event()
    archive = OvaWriter(target, modified=0, cancelled=cancelled)
    pipeline = Pipeline(CompressionSettings(os.cpu_count() or 1, UnitSettings(codec)), cancelled)
    with Chain.open([disk]) as chain:
        archive.begin("disk.vmdk")
        layout = VmdkLayout(
            "disk.vmdk",
            chain.size,
            secrets.randbits(32),
            uuid4(),
            position=archive.position,
            alignment=SECTOR,
        )
        pipeline.copy(chain, layout, LockedSink(archive, [], layout, None), ReadMeter())
        archive.end()
        archive.finish("disk.mf")
        pipeline.close()
    archive.close()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
