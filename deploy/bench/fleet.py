"""Many hosts on one NAS, by simulation: what their commits cost, and how long they wait.

The size of the database and the time to read and write it are measured with the product's own code;
the network is a model with the figures below. One day is simulated, from a seed that is printed.
"""

import heapq
import random
import time
from dataclasses import dataclass, field, replace
from typing import Final

from deploy.bench.report import Report
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord
from shared.state.records import CopyRecord, VmRecord
from shared.state.states import State
from shared.state.store.create import first_generation
from shared.state.store.snapshot import decode

_DAY: Final = 86_400.0
_TICK_SECONDS: Final = 600.0
#: Commits of one backup: claim, progress of its publication, end.
_COMMITS: Final = 6
#: Of one commit on NFS, measured: opens, listings, reads, fsyncs.
_OPERATIONS: Final = 41
#: Of one host's idle tick below the NAS (part `idle`; the same for any number of VMs).
_IDLE_OPERATIONS: Final = 120
#: Waiting for the NAS in one commit, without the bytes of a generation: 37 a second, measured.
_NFS_SECONDS: Final = 1 / 37
#: What an Ethernet of 1 Gbit/s carries.
_BYTES_PER_SECOND: Final = 110e6
#: A generation crosses the network so often in a commit: written once, read by others' look.
_CROSSINGS: Final = 2
#: Of `shared.state.store.lease`.
_POLL_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 3.0
_SEED: Final = 17
_VMS: Final = 50
_WORKERS: Final = 5
#: With more of the day taken, writers wait for each other without an end.
_BUSY: Final = 0.7


def measure(report: Report) -> None:
    """Prints a day of 20, 100 and 400 hosts."""
    report.heading(
        "Fleet",
        f"By simulation (seed {_SEED}): {_VMS} VMs a host, a tick each ten minutes, each VM backed "
        f"up once a day; NFS at {1 / _NFS_SECONDS:.0f} commits a second without the bytes, "
        "1 Gbit/s.",
    )
    for hosts in (20, 100, 400):
        _measure(report, hosts)


def _measure(report: Report, hosts: int) -> None:
    size, processor = database_cost(hosts, _VMS)
    held = _NFS_SECONDS + processor + _CROSSINGS * size / _BYTES_PER_SECOND
    name, commits = f"{hosts} hosts", hosts * _VMS * _COMMITS
    report.figure(f"{name}, one generation", f"{size / 1e6:.2f} MB, {processor:.2f} s CPU")
    report.figure(f"{name}, history a day, not packed", f"{commits * size / 1e9:.1f} GB")
    busy = held * commits / _DAY
    report.figure(f"{name}, lease held", f"{held:.2f} s a commit, {busy:.0%} of the day")
    if busy > _BUSY:
        report.figure(f"{name}, a day", "does not fit: not simulated")
        return
    day = simulate(hosts, _VMS, held, random.Random(_SEED))
    ticks = hosts * round(_DAY / _TICK_SECONDS)
    operations = day.attempts * _OPERATIONS + day.polls + ticks * _IDLE_OPERATIONS
    moved = (day.attempts * _CROSSINGS + ticks * _WORKERS) * size
    figures = f"{operations / 1e6:.1f} million operations, {moved / 1e9:.0f} GB of database"
    report.figure(f"{name}, NAS a day", figures)
    waits = sorted(day.waits)
    middle, late = (waits[len(waits) * part // 100] for part in (50, 99))
    figures = f"p50 {middle:.2f} s, p99 {late:.2f} s, longest {waits[-1]:.2f} s"
    report.figure(f"{name}, a commit waits", figures)
    repeated = day.attempts - day.commits
    report.figure(f"{name}, commits", f"{day.commits}, and {repeated} repeated")


def database_cost(hosts: int, vms: int) -> tuple[int, float]:
    """The bytes of a generation with so many VMs, each with a copy, and what it costs.

    That is the CPU seconds to write and read it once.
    """
    signs = {"version": "1", "state": "off", "changed": "2026-11-22T20:54:47Z", "disks": "0" * 32,
             "settings": "0" * 32, "firmware": "1 2"}  # fmt: skip
    copy = CopyRecord("20261122T000000Z-1", 1, 10**10, "0" * 64, "2026-11-22T00:00:00Z", signs)
    record = VmRecord("", "", "", "", "", State.CLEAN, "2026-11-22T00:00:00Z", last_copy=copy)
    nodes = {f"host{n}": NodeRecord(f"host{n}", f"{n:032x}", f"host{n}") for n in range(hosts)}
    machines = {}
    for number in range(hosts * vms):
        name = f"vm{number:06}"
        uuid = f"00000000-0000-4000-8000-{number:012}"
        node = f"host{number // vms}"
        machines[name] = replace(record, key=name, name=name, uuid=uuid, node=node, directory=name)
    began = time.process_time()
    data = first_generation("0" * 36, 1, "bench", "2026-11-22T00:00:00Z", "bench",
                            Contents(len(machines), nodes, {}, machines))  # fmt: skip
    decode(data, 1)
    return len(data), time.process_time() - began


@dataclass
class Day:
    """What happened. `attempts` are commits and those that had to be repeated."""

    commits: int = 0
    attempts: int = 0
    polls: int = 0
    waits: list[float] = field(default_factory=list)


def simulate(hosts: int, vms: int, held: float, chance: random.Random) -> Day:
    """One day. Of each host one writer at a time tries for the lease; `held`: seconds a commit.

    The lease knows no order: of those that poll, whoever polls first after its release has it. Who
    has waited for all of its patience commits without it, and again if another was faster.
    """
    events: list[tuple[float, int, float, float]] = []
    # when, which host, since when it waits for the lease, since when for its commit
    for host in range(hosts):
        phase = chance.uniform(0, _TICK_SECONDS)
        for number in range(vms):  # a tick takes what waits, one VM after the other
            start = phase + _TICK_SECONDS * (number * int(_DAY / _TICK_SECONDS) // vms)
            for commit in range(_COMMITS):
                when = start + commit * chance.uniform(1, 60)
                events.append((when, host, when, when))
    heapq.heapify(events)
    day, free_at, last_commit = Day(), 0.0, -1.0
    while events:
        now, host, since, first = heapq.heappop(events)
        day.polls += 1
        patient = now - since < _PATIENCE_SECONDS
        if now < free_at and patient:
            later = now + _POLL_SECONDS * chance.uniform(0.9, 1.1)
            heapq.heappush(events, (later, host, since, first))
            continue
        day.attempts += 1
        if now < free_at:
            if last_commit > now - held:  # somebody committed while it did: once more
                heapq.heappush(events, (now + held, host, now + held, first))
                continue
        else:
            free_at = now + held
        last_commit = now + held
        day.commits += 1
        day.waits.append(now - first)
    return day
