"""Ways of getting a disk back side by side: unpacked directly, imported, and by restic.

    python -m deploy.bench.restores unpack|check OVA TARGET RESULT

Each way runs in processes of its own, by turns, another one first in each round, with empty caches
where this user may empty them, and until what it wrote is on the disk.
Registering the VM is in none of the figures but that of the import (some tenths of a second).
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

from deploy.bench.export_engines import make_vm
from deploy.bench.one_export import engine_command, watched
from deploy.bench.report import Report, spread
from shared.ova.check import check_ova
from shared.ova.disk_reader import open_copy
from shared.ova.unpacking import Unpacker
from shared.ova.vdi_writing import VdiFile
from tests.support.virtualbox import RealHost, Testbed, Unavailable

#: What a restore is meant to reach.
AIM_CPU: Final = 0.5
AIM_WALL_BEFORE: Final = 0.5
AIM_WALL_RESTIC: Final = 1.0
AIM_READ: Final = 1.01
AIM_MEMORY_MB: Final = 100

Runs = dict[str, list[tuple[float, float]]]


def measure(report: Report, *, rounds: int, mib: int) -> None:
    """Prints all figures; says so where there is no real VirtualBox, or no restic."""
    report.heading("Restores", f"{mib} MiB of real files, by turns: median (least-most).")
    try:
        host = Testbed.set_up().host()
    except (Unavailable, subprocess.CalledProcessError) as reason:
        report.figure("left out", str(reason))
        return
    try:
        uuid, _ = make_vm(host, mib)
        ova, result = host.folder / "bench.ova", host.folder / "result.json"
        watched(host, engine_command(host, uuid, "all cores", ova, result))
        repository = _restic_repository(report, host)
        found: Runs = defaultdict(list)
        facts: list[dict[str, float]] = []
        for number in range(rounds):
            ways: list[Callable[[], None]] = [
                lambda: _unpacked(host, ova, result, found, facts),
                lambda: _by_virtualbox(host, ova, result, found),
                *([lambda: _by_restic(host, repository, found)] if repository else []),
            ]
            for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
                way()
        _show(report, found, facts, ova.stat().st_size)
    finally:
        host.remove()


def _unpacked(
    host: RealHost, ova: Path, result: Path, found: Runs, facts: list[dict[str, float]]
) -> None:
    found["unpacked directly"].append(_own(host, "unpack", ova, result))
    facts.append(json.loads(result.read_text(encoding="utf-8")))


def _by_virtualbox(host: RealHost, ova: Path, result: Path, found: Runs) -> None:
    imported, checked = _imported(host, ova), _own(host, "check", ova, result)
    found["VBoxManage import"].append(imported)
    found["check, then import"].append((imported[0] + checked[0], imported[1] + checked[1]))


def _by_restic(host: RealHost, repository: Path, found: Runs) -> None:
    found["restic restore"].append(_restic(host, repository))


def _show(report: Report, found: Runs, facts: list[dict[str, float]], size: int) -> None:
    for name, runs in found.items():
        cpu = statistics.median(run[1] for run in runs)
        report.figure(name, f"{spread([run[0] for run in runs])}, CPU {cpu:.1f} s")
    for title, name, which, aim in (
        ("CPU / VBoxManage import", "VBoxManage import", 1, AIM_CPU),
        ("wall time / check, then import", "check, then import", 0, AIM_WALL_BEFORE),
        ("wall time / restic restore", "restic restore", 0, AIM_WALL_RESTIC),
    ):
        if name in found:
            ratio = _median(found["unpacked directly"], which) / _median(found[name], which)
            report.judged(title, ratio, "", aim)
    report.judged("bytes read / size", max(each["read"] for each in facts) / size, "", AIM_READ)
    report.judged("peak memory", max(each["memory"] for each in facts) / 1e6, "MB", AIM_MEMORY_MB)


def _median(runs: list[tuple[float, float]], which: int) -> float:
    return statistics.median(run[which] for run in runs)


def _own(host: RealHost, what: str, ova: Path, result: Path) -> tuple[float, float]:
    _empty_caches()
    target = host.folder / "unpacked"
    target.mkdir()
    module = "deploy.bench.restores"
    command: list[str | Path] = [sys.executable, "-m", module, what, ova, target, result]
    try:
        return _synced(host, command)
    finally:
        shutil.rmtree(target)


def _imported(host: RealHost, ova: Path) -> tuple[float, float]:
    _empty_caches()
    settings = host.folder / "imported" / "imported.vbox"
    words = ["--vsys", "0", "--vmname=imported", f"--settingsfile={settings}"]
    run = _synced(host, [host.vboxmanage, "import", ova, *words, "--options=importtovdi"])
    host.run("unregistervm", "imported", "--delete")
    return run


def _restic_repository(report: Report, host: RealHost) -> Path | None:
    if shutil.which("restic") is None:
        report.figure("restic restore", "left out: restic is not there (apt-get install restic)")
        return None
    repository = host.folder / "restic"
    os.environ["RESTIC_PASSWORD"] = "bench"
    for words in (["init"], ["backup", host.vms / "bench.vdi"]):
        watched(host, ["restic", "--quiet", f"--repo={repository}", *words])
    return repository


def _restic(host: RealHost, repository: Path) -> tuple[float, float]:
    _empty_caches()
    target = host.folder / "restored"
    words = ["--quiet", f"--repo={repository}", "restore", "latest", f"--target={target}"]
    try:
        return _synced(host, ["restic", *words])
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _synced(host: RealHost, command: Sequence[str | Path]) -> tuple[float, float]:
    """Until what it wrote is on the disk: one way waits for that by itself, another does not."""
    shell: list[str | Path] = ["sh", "-c", '"$@" && sync -f "$0"', host.folder]
    return watched(host, [*shell, *command])


def _empty_caches() -> None:
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


def main() -> None:
    """One run in a process of its own; writes what it used."""
    what, ova, target, result = sys.argv[1], *map(Path, sys.argv[2:])
    began, before = time.monotonic(), _read()
    if what == "check":
        check_ova(ova.parent, ova.name)
    else:
        _unpack(ova, target)
    used = {"wall": time.monotonic() - began, "read": _read() - before, "memory": _peak()}
    result.write_text(json.dumps(used), encoding="utf-8")


def _unpack(ova: Path, target: Path) -> None:
    with open_copy(ova) as copy:
        sizes = {disk.name: disk.size for disk in copy.disks}
    with contextlib.ExitStack() as stack:
        unpacker = stack.enter_context(Unpacker())
        sinks = {
            name: unpacker.disk(
                name, stack.enter_context(VdiFile(target / f"{number}.vdi", size, uuid4()))
            )
            for number, (name, size) in enumerate(sizes.items())
        }
        check_ova(ova.parent, ova.name, sinks=sinks)
        for sink in sinks.values():
            sink.finish()


def _read() -> int:
    """Bytes that this process has read; all of the disk or the NAS but its own modules."""
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return int(text.split("rchar: ")[1].split()[0])


def _peak() -> int:
    """The most memory that this process had; `ru_maxrss` would be that of its parent as well."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
