"""The history of the database: how much room it takes in bundles, and how fast `log` reads it.

Generations are made line by line, as the product writes them; all else is the product's own code.
"""

import hashlib
import json
import random
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from deploy.bench.report import Report
from shared.state.store.bundle_packing import Packer
from shared.state.store.bundling import BUNDLE_SIZE
from shared.state.store.header import NO_PREVIOUS
from shared.state.store.history import walk
from shared.state.store.layout import generation_name
from shared.state.store.protocol import SESSION_MEMORY

#: Commits of one backup: used, claimed, intent, in place, let go of, session ended.
_COMMITS: Final = 6
_WHEN: Final = "2026-11-22T20:38:00Z"
_REPOSITORY: Final = "00000000-0000-4000-8000-000000000000"
#: What a day may take with so many VMs, each backed up once, in MB; and what `log` may take.
_AIMS: Final = ((100, 1.0), (1000, 20.0))
_LOG_SECONDS: Final = 2.0
#: So many commits `log` is to answer from in that time.
_LONG: Final = 100_000


def measure(report: Report, *, full: bool) -> None:
    """Prints the bytes a day, and the seconds of `log` (`full`: from 100,000 commits)."""
    report.heading(
        "History",
        f"Bundles of {BUNDLE_SIZE} commits, {_COMMITS} commits a backup, a backup a day of each VM",
    )
    for vms, aim in _AIMS:
        with tempfile.TemporaryDirectory(prefix="vmbackup-bench.") as folder:
            each = _fill(Path(folder), vms, 4 * BUNDLE_SIZE)
            report.judged(f"{vms} VMs, a day", each * _COMMITS * vms / 1e6, "MB", aim)
    commits = _LONG if full else _LONG // 10
    with tempfile.TemporaryDirectory(prefix="vmbackup-bench.") as folder:
        _fill(Path(folder), 100, commits)
        for name, vm in (("log", ""), ("log --vm", "vm0007"), ("log --vm of none", "none")):
            began = time.process_time()
            naming = [f'"key":"{vm}"'] if vm else []
            found = sum(1 for _ in islice(walk(Path(folder), naming=naming), None if vm else 30))
            seconds = time.process_time() - began
            aim = _LOG_SECONDS * commits / _LONG
            report.judged(f"{name}, {commits} commits, {found} found", seconds, "CPU s", aim)


def _fill(root: Path, vms: int, commits: int) -> float:
    """Makes a history in `root`, and returns the bytes of a commit in bundles."""
    for name in ("gen", "history"):
        (root / name).mkdir()
    packer, size = Packer(), 0
    bundled = commits - commits % BUNDLE_SIZE
    for number, data in enumerate(islice(_generations(vms), commits), 1):
        if number > bundled:
            (root / "gen" / generation_name(number)).write_bytes(data)
            continue
        packer.add(number, data)
        if number % BUNDLE_SIZE == 0:
            bundle, packed = packer.finish(_WHEN, f"{number:08x}")
            (root / "history" / str(bundle)).write_bytes(packed)
            size += len(packed)
            packer = Packer((number, data))
    return size / bundled


def _generations(vms: int) -> Iterator[bytes]:
    """Backups of one VM after the other, for ever."""
    chance = random.Random(17)
    rows = {f"vm{number:04}": _row(f"vm{number:04}", chance) for number in range(vms)}
    sessions: dict[str, tuple[int, str]] = {}
    number, previous = 0, NO_PREVIOUS
    while True:
        for key in tuple(rows):
            session = f"host{chance.randrange(9)}.{chance.randbytes(8).hex()}"
            for step in range(_COMMITS):
                number += 1
                rows[key] = _changed(rows[key], session, step, chance)
                said = {"id": session, "sequence": step, "generation": number, "state": "live"}
                sessions[session] = (number, json.dumps(said))
                oldest = number - SESSION_MEMORY
                sessions = {name: row for name, row in sessions.items() if row[0] > oldest}
                commit = {"session": session, "sequence": step, "node": session[:5],
                          "committed": _WHEN, "reason": f"{key}: step {step}"}  # fmt: skip
                lines = [
                    *("vmbackup-state 2.0", f"repository {_REPOSITORY}", f"generation {number}"),
                    *(f"previous {previous}", f"commit {json.dumps(commit)}", f"claims {number}"),
                    *("nodes 0", f"sessions {len(sessions)}"),
                    *(row for _, row in sorted(sessions.values(), key=lambda row: row[1])),
                    *(f"vms {vms}", *(_line(row) for row in rows.values()), "end\n"),
                ]
                body = "\n".join(lines).encode()
                previous = hashlib.sha256(body).hexdigest()
                yield body + f"sha256 {previous}\n".encode()


def _row(key: str, chance: random.Random) -> dict[str, Any]:
    uuid = chance.randbytes(16).hex()
    row = {"key": key, "name": key, "uuid": uuid, "node": "host1", "directory": key}
    return {**row, "status": "CLEAN", "found": _WHEN, "last_copy": _copy(1, chance)}


def _copy(claim: int, chance: random.Random) -> dict[str, Any]:
    digests = {name: chance.randbytes(16).hex() for name in ("disks", "settings", "firmware")}
    sizes = {"stamp": f"20261122T203800Z-{claim}", "claim": claim, "size": chance.randrange(10**11)}
    return {
        **sizes,
        "sha256": chance.randbytes(32).hex(),
        "finished": _WHEN,
        "fingerprint": digests,
    }


def _changed(row: dict[str, Any], session: str, step: int, chance: random.Random) -> dict[str, Any]:
    """What one commit of a backup makes of the VM's row; without the text that is remembered."""
    row = {name: value for name, value in row.items() if name != ""}
    match step:
        case 0:
            return {**row, "status": "BACKUP_NECESSARY"}
        case 1:
            claim = {"session": session, "number": chance.randrange(10**6), "since": _WHEN}
            return {**row, "status": "BACKUP_IN_PROGRESS", "claim": {**claim, "purpose": "backup"}}
        case 2:
            return {**row, "publishing": _copy(chance.randrange(10**6), chance)}
        case 3:
            copy = row.pop("publishing")
            return {**row, "status": "CLEAN", "last_copy": copy}
        case 4:
            row.pop("claim")
    return row


def _line(row: dict[str, Any]) -> str:
    """The text of a row, made once: the empty name keeps it."""
    if "" not in row:
        row[""] = json.dumps(row, separators=(",", ":"))
    return str(row[""])
