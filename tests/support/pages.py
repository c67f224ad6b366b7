"""What a page is made of, without a NAS: as many VMs as wanted, in all states, with a past."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from shared.copies.catalogue import Copy
from shared.copies.sidecar import Rehearsed, Sidecar
from shared.host.clock import timestamp
from shared.nas.mount import NasStatus
from shared.reports.page.days import Past, last_days
from shared.reports.page.page_parts import KnownToPage
from shared.reports.space_growth import Sample
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import Claim, CopyRecord, VmRecord
from shared.state.sessions.host_look import HostLook, WorkerEnd
from shared.state.states import State
from shared.state.store.summary import Summary, VmSummary
from shared.tasks.judgement import Bounds, judge_host, judge_nas, moment
from shared.tasks.verdicts import Verdicts
from shared.tasks.vm_judgement import about_vm, gravest

HOSTS = ("alpha", "beta")
DAY = 86400.0
GIB = 1 << 30
BOUNDS = Bounds(max_age_seconds=26 * 3600, verify_days=28)
#: Whatever a page must not take for anything but a name.
HOSTILE = (
    "<script>window.injected=1</script>",
    '"><img src=x onerror=window.injected=1>',
    "'; window.injected=1; '",
    "</title></style></script><svg onload=window.injected=1>",
    "{{ 7*7 }}{% raw %}",
    "javascript:window.injected=1",
    "a\u202egpj.exe",
    "\x1b[31mred\n",
    "\ud800half",
    "https://evil.example/x.png",
    "x" * 200,
)


def known(
    count: int, written: float | None = None, names: Sequence[str] = (), kept: int = 10
) -> KnownToPage:
    """What is known of `count` VMs on two hosts, the first of which are called `names`.

    Every seventh is in use, every eleventh fails, every 23rd has a damaged copy, one is being
    copied; all others are clean. Each has `kept` copies.
    """
    now = written if written is not None else time.time()
    keys = [*names, *(f"vm{number:03d}" for number in range(len(names), count))][:count]
    records = {key: _record(key, number, now, kept) for number, key in enumerate(keys)}
    looks: dict[str, HostLook | None] = {host: _look(host, records, now) for host in HOSTS}
    session = SessionRecord("session-1", 1, 1, "live", HOSTS[0])
    contents = Contents(
        nodes={host: NodeRecord(host, "m") for host in HOSTS},
        sessions={session.id: session},
        vms=records,
    )
    here = moment(now, looks[HOSTS[0]])
    about = {
        key: tuple(about_vm(record, looks[record.node], here, BOUNDS))
        for key, record in records.items()
    }
    nas = NasStatus(Path("/mnt/nas"), 900 * GIB, 4000 * GIB, None)
    judged = Verdicts(
        judge_nas(nas.free, 10 * GIB),
        tuple(judge_host(host, looks[host], here, may_be_off=False) for host in HOSTS),
        tuple(map(gravest, about.values())),
        looks,
        here,
        about,
    )
    copied = next((record.key for record in records.values() if record.claim), "")
    return KnownToPage(
        written=now,
        version="0.2.0",
        node=HOSTS[0],
        repository="0123456789abcdef",
        generation=4711,
        nas=nas,
        reserve=10 * GIB,
        contents=contents,
        judged=judged,
        bounds=dict.fromkeys(records, BOUNDS),
        past=_past(records, now),
        copies={
            key: _copies(record, number, now, kept)
            for number, (key, record) in enumerate(records.items())
        },
        beats={"session-1": {"vm": copied, "phase": "export", "percent": 42.0}},
        samples=[
            Sample(
                datetime.fromtimestamp(now - back * DAY, UTC), nas.total, nas.free + 3 * back * GIB
            )
            for back in range(20, 0, -1)
        ],
    )


def _when(moment_: float) -> str:
    return timestamp(datetime.fromtimestamp(moment_, UTC))


def _finished(number: int, back: int, now: float) -> float:
    return now - (back * 3 + number % 3) * DAY - 3600 * (number % 5) - 600


def _size(number: int, back: int) -> int:
    return (5 + number % 40) * GIB - back * (1 << 28)


def _stamp(moment_: float, claim: int) -> str:
    return f"{datetime.fromtimestamp(moment_, UTC):%Y%m%dT%H%M%SZ}-{claim}"


def _record(key: str, number: int, now: float, kept: int) -> VmRecord:
    done = _finished(number, 0, now)
    copy = CopyRecord(
        _stamp(done, 1000 * kept + number), 1, _size(number, 0), "0" * 64, _when(done), {}
    )
    record = VmRecord(
        key,
        key,
        f"00000000-0000-4000-8000-{number:012d}",
        HOSTS[number % 2],
        f"vm{number}",
        State.CLEAN,
        _when(now - 55 * DAY),
        last_copy=copy,
        verified=_when(done),
    )
    if number % 7 == 4:
        return replace(record, status=State.RUNNING)
    if number % 23 == 9:
        return replace(record, damaged=(copy.stamp,))
    if number % 11 == 3:
        return replace(
            record,
            status=State.BACKUP_NECESSARY,
            failures=2,
            last_error="VBoxManage ended with 1: the medium is locked for reading",
            last_error_at=_when(now - 7200),
        )
    if number == 5:
        claim = Claim("session-1", 99, "backup", _when(now - 300))
        return replace(record, status=State.BACKUP_IN_PROGRESS, claim=claim)
    return record


def _look(host: str, records: dict[str, VmRecord], now: float) -> HostLook:
    own = [record for record in records.values() if record.node == host]
    looked = now - 120
    return HostLook(
        host,
        "m",
        looked,
        looked,
        now - 50 * DAY,
        tuple(looked - 600 * back for back in range(5, 0, -1)),
        {name: WorkerEnd(0, _when(looked)) for name in ("vmfind", "backup", "database")},
        {record.uuid: looked for record in own},
        {
            record.uuid: looked - (20000 if record.status != State.CLEAN else 0)
            for record in own
        },
    )  # fmt: skip


def _copies(record: VmRecord, number: int, now: float, kept: int) -> list[Copy]:
    found = []
    for back in range(kept - 1, -1, -1):
        done = _finished(number, back, now)
        stamp = _stamp(done, 1000 * (kept - back) + number)
        side = Sidecar(
            stamp, 1, record.name, record.uuid, record.node, record.node, "7.1", "0" * 64,
            _size(number, back), {}, _when(done), _when(done), 60, "parallel",
            rehearsed=Rehearsed(_when(done), record.node, "good", "", True) if back == 1 else None,
            pinned=_when(done) if back == 4 else "",
        )  # fmt: skip
        damaged = record.damaged and not back
        problem = "verification found: a block is not what its digest says" if damaged else ""
        found.append(Copy(Path("/mnt/nas"), stamp, side, side.size, problem))
    return found


def _past(records: dict[str, VmRecord], now: float) -> Past:
    days = last_days(now)
    ends = {}
    for number, day in enumerate(days[4:], start=4):
        back = len(days) - 1 - number
        vms = {}
        for index, record in enumerate(records.values()):
            turn = max(0, -(-(back - index % 3) // 3))
            done = _finished(index, turn, now)
            failed = day + "T00:00:00Z" if (index + number) % 29 == 0 else ""
            vms[record.uuid] = VmSummary(
                record.uuid, record.node, "RUNNING" if (index + number) % 13 < 2 else "CLEAN",
                record.found, _stamp(done, 1), _size(index, turn), _when(done), failed,
            )  # fmt: skip
        ends[day] = Summary(number, vms)
    return Past(days, ends)
