"""Writes that this host looked at its VMs, and what it saw (see `host_look`)."""

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.host.clock import Clock, timestamp
from shared.host.host_identity import HostIdentity
from shared.nas.reading import opened, plain
from shared.nas.writing import FILE_MODE, like_directory, open_in_place
from shared.state.sessions.host_look import (
    _REMEMBERED,
    BREAKS,
    BREAKS_SECONDS,
    LONGEST_WHY,
    MOST_STUCK,
    PREFIX,
    SCHEMA,
    SHORTEST_INTERVAL_SECONDS,
    HostLook,
    Stuck,
    WorkerEnd,
    read_look,
)


@dataclass(frozen=True, slots=True)
class VmsSeen:
    """What a tick saw of VMs, by UUID.

    `known` are those that the database has of this host; `examined` those that the tick looked at;
    `unchanged` those of them that it found as their newest copy has them. `stuck` are those, by
    name, that run from copies and do not get on.
    """

    known: Collection[str]
    examined: Collection[str]
    unchanged: Collection[str]
    stuck: Mapping[str, Stuck] = field(default_factory=dict)


def write_look(
    directory: Path,
    identity: HostIdentity,
    clock: Clock,
    seen: VmsSeen,
    workers: Mapping[str, WorkerEnd],
) -> None:
    """Writes this host's file in `directory`. Raises OSError.

    Read before it is written: what earlier looks found of VMs that this one did not see stays. A
    crash leaves the file as it was, or one that cannot be read and is made anew by the next tick.
    """
    former = read_look(directory, identity.node, identity.machine)
    document = {
        "schema": SCHEMA,
        "node": identity.node,
        "machine": identity.machine,
        "written": clock.now().timestamp(),
        "at": timestamp(clock.now()),
        **_continued(former, seen),
        "workers": {name: {"code": end.code, "when": end.when} for name, end in workers.items()},
        "stuck": _bounded(seen.stuck),
    }
    data = json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with opened(directory) as parent:
        name = plain(PREFIX + identity.node)
        descriptor = open_in_place(name, os.O_CREAT, FILE_MODE, parent)
    try:
        with contextlib.suppress(OSError):  # a mount without rights of its own
            os.fchmod(descriptor, like_directory(FILE_MODE, directory))
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _continued(former: HostLook | None, seen: VmsSeen) -> dict[str, Any]:
    """What this look takes over from the one before. 0 stands for the time of this very look."""
    vms: dict[str, float] = dict.fromkeys(seen.examined, 0.0)
    unchanged: dict[str, float] = dict.fromkeys(seen.unchanged, 0.0)
    if former is None:
        return {"since": 0, "known": 0, "before": [], "vms": vms, "unchanged": unchanged}
    breaks = [each for each in former.breaks if each[1] > former.looked - BREAKS_SECONDS]
    dropped = [ended for _, ended in breaks[:-BREAKS]]
    return {
        "since": former.since,
        "breaks": breaks[-BREAKS:],
        "known": max([former.known, *dropped]),
        "before": _remembered(former),
        "interval": former.interval_seconds,
        "vms": {**_of(seen.known, former.vms), **vms},
        "unchanged": {**_of(seen.known, former.unchanged), **unchanged},
    }


def _bounded(stuck: Mapping[str, Stuck]) -> dict[str, dict[str, str | int]]:
    told = sorted(stuck.items())[:MOST_STUCK]
    return {
        name: {"why": each.why, "said": each.said[:LONGEST_WHY], "pid": each.pid}
        for name, each in told
    }


def _remembered(former: HostLook) -> list[float]:
    before = list(former.before)
    if before and former.looked - before[-1] < SHORTEST_INTERVAL_SECONDS:
        before.pop()
    return [*before, former.looked][-_REMEMBERED:]


def _of(known: Collection[str], times: Mapping[str, float]) -> dict[str, float]:
    return {uuid: time for uuid, time in times.items() if uuid in known}
