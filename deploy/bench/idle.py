"""An idle tick: every VM is CLEAN and stopped, and each worker finds that out."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from deploy.bench.report import Report, spread
from shared.copies.names import final_name
from shared.copies.sidecar import Sidecar
from shared.host.clock import SystemClock, timestamp
from shared.host.configuration import load
from shared.host.host_identity import HostIdentity
from shared.site import Site, open_site
from shared.state.contents import Contents
from shared.state.records import CopyRecord, VmRecord
from shared.state.states import State
from shared.state.store.create import create
from shared.virtualbox.fingerprint import fingerprint_of
from tests.support.simulated import SimulatedHost

#: What a whole tick may cost a host that has nothing to do: cron starts one every few minutes.
TICK_CPU_SECONDS: Final = 1.0
WORKERS: Final = ("vmfind", "notifier", "backup", "verify", "database")


def measure(report: Report, *, rounds: int) -> None:
    """Prints wall time and NAS calls of each worker for 100 and 1000 simulated VMs."""
    report.heading(
        "Idle tick",
        "Each worker as a process of its own; wall time from start to end: median (least-most). "
        "NAS calls: opens, listings, links, "
        "renames, removals below the NAS by that process; its probe of the mount, a process of "
        "its own, makes 4 more.",
    )
    with tempfile.TemporaryDirectory(prefix="vmbackup-bench-") as folder:
        _measure_tick(report, _all_clean(Path(folder), 20), rounds)
    for count in (100, 1000):
        with tempfile.TemporaryDirectory(prefix="vmbackup-bench-") as folder:
            environment = _all_clean(Path(folder), count)
            total = 0
            for worker in WORKERS:
                seconds = [_timed(environment, worker) for _ in range(rounds)]
                calls = _counted(Path(folder), environment, worker)
                started = calls.pop("subprocess.Popen", 0)
                total += sum(calls.values())
                detail = ", ".join(
                    f"{number} {name.removeprefix('os.')}" for name, number in sorted(calls.items())
                )
                report.figure(
                    f"{count} VMs, {worker}",
                    (
                        f"{spread(seconds)}, NAS calls: {sum(calls.values())} ({detail}), "
                        f"processes "
                        f"started: {started}"
                    ),
                )
            report.figure(f"{count} VMs, all of them", f"NAS calls: {total}")


def _measure_tick(report: Report, environment: Mapping[str, str], rounds: int) -> None:
    """Prints the CPU time of `run`, and of its workers started one by one, by turns."""
    together, apart = [], []
    for _ in range(rounds):
        together.append(_processor_seconds(environment, "run"))
        apart.append(sum(_processor_seconds(environment, worker) for worker in WORKERS))
    report.figure("20 VMs, each worker alone, added", f"CPU: {spread(apart)}")
    report.figure("20 VMs, run", f"CPU: {spread(together)}")
    ratio = statistics.median(together) / statistics.median(apart)
    report.figure("20 VMs, run beside its workers alone", f"{ratio:.2f} of their CPU time")
    report.judged("20 VMs, run, CPU time", min(together), "s", TICK_CPU_SECONDS)


def _processor_seconds(environment: Mapping[str, str], worker: str) -> float:
    """Of a program and all that it starts, the simulated VBoxManage among it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(environment, worker)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _all_clean(folder: Path, count: int) -> Mapping[str, str]:
    """Makes a host whose VMs all have a copy, as far as the database knows.

    Returns the environment of its workers.
    """
    host = SimulatedHost(folder / "hosts", "bench")
    host.make_vms(count)
    nas = folder / "nas"
    nas.mkdir()
    configuration = folder / "config.toml"
    configuration.write_text(
        f"[nas]\nmountpoint = {json.dumps(str(nas))}\nrequire_mount = false\n"
        f"[host]\nstate_directory = {json.dumps(str(folder / 'state'))}\n",
        encoding="utf-8",
    )
    environment = {
        **os.environ,
        **host.environment,
        "VMBACKUP_CONFIG": str(configuration),
        "BENCH_NAS": str(nas),
        "PYTHONDONTWRITEBYTECODE": "",  # programs that are installed are not compiled at each start
    }
    os.environ.update(host.environment)
    create(nas / "vmstate", HostIdentity.of_this_machine("bench"), SystemClock())
    _run(environment, "vmfind")
    site = open_site(load(str(configuration)), SystemClock())
    _mark_clean(site)
    for worker in WORKERS:  # what is done once after a change is not part of an idle tick
        _run(environment, worker)
    return environment


def _mark_clean(site: Site) -> None:
    fingerprints = {
        uuid: fingerprint_of(machine).to_json() for uuid, machine in site.inventory().items()
    }

    read = timestamp(site.clock.now())

    def change(contents: Contents) -> Contents:
        for number, record in enumerate(contents.vms.values(), start=1):
            copy = CopyRecord(
                f"20261122T000000Z-{number}", number, 1, "0" * 64, read, fingerprints[record.uuid]
            )
            _place(site, record, copy)
            contents = contents.with_vm(
                replace(record, status=State.CLEAN, last_copy=copy, verified=read)
            )
        return replace(contents, claims_granted=len(contents.vms))

    site.database.commit_once(change, "benchmark", "bench")


def _place(site: Site, record: VmRecord, copy: CopyRecord) -> None:
    """Makes what a look at the VM's directory takes for its copy."""
    directory = site.directory(record)
    directory.mkdir(exist_ok=True)
    (directory / final_name(copy.stamp, "ova")).write_bytes(b"0")
    side = Sidecar(
        copy.stamp, copy.claim, record.name, record.uuid, "bench", "bench", "7.0", copy.sha256,
        copy.size, copy.fingerprint, copy.finished, copy.finished, 1.0, "vboxmanage",
    )  # fmt: skip
    (directory / final_name(copy.stamp, "json")).write_bytes(side.render())


def _run(environment: Mapping[str, str], *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "worker.cli", *words],
        env=environment,
        check=True,
        stdin=subprocess.DEVNULL,
    )


def _timed(environment: Mapping[str, str], worker: str) -> float:
    began = time.monotonic()
    _run(environment, worker)
    return time.monotonic() - began


def _counted(folder: Path, environment: Mapping[str, str], worker: str) -> dict[str, int]:
    result = folder / "counts.json"
    program = Path(__file__).with_name("counted.py")
    command = [
        sys.executable,
        str(program),
        environment["BENCH_NAS"],
        str(result),
        "worker.cli",
        worker,
    ]
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL)
    counts: dict[str, int] = json.loads(result.read_text(encoding="utf-8"))
    return counts
