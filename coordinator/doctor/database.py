"""Is the state database whole, does it know this host, and who may write to it?"""

import os
import shlex
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from coordinator import database_reading, text
from coordinator.doctor.result import Check, Verdict, failed
from shared.host.clock import Clock
from shared.host.configuration import Configuration
from shared.host.errors import DatabaseDamagedError, NodeConflictError
from shared.host.host_identity import HostIdentity
from shared.host.printable import quoted
from shared.state import formats
from shared.state.contents import Contents
from shared.state.rules import hosts
from shared.state.sessions.deaths import find_proven, live_sessions, of_another_boot, three_beats
from shared.state.sessions.host_look import read_look
from shared.state.store import generations, inspection, reserve
from shared.state.store.database import Database
from shared.state.store.lease import is_provably_dead, parse_marker
from shared.state.store.opening import open_database
from shared.state.store.operations import ReadLease
from shared.tasks.judgement import Level, judge_host, moment, namesake_of


def examine(
    configuration: Configuration, identity: HostIdentity, clock: Clock, *, read_only: bool = False
) -> Iterator[Check]:
    """Everything about the database. Raises what `open_database` raises.

    `read_only`: the NAS is mounted so, and that nobody can write there tells nothing about rights.
    """
    root = configuration.nas.state
    database = open_database(
        root, identity, clock, configuration.host.state_directory, reading=True
    )
    settings = database.version
    lease = f"lease {settings.lease_seconds:g} s, by {settings.primitive}"
    yield Check(
        "database",
        "ok",
        f"repository {settings.repository}, version {settings.database_version}, {lease}",
    )
    yield _format(settings.database_version)
    yield from examine_rights(root, read_only=read_only)
    yield from _generations(root)
    yield _reserve(root, configuration.nas.reserve)
    yield from _nodes(database)
    yield from _last_runs(database, clock)
    yield from _locks(database)


def _format(version: str) -> Check:
    """One that is too new is found when the generations are examined."""
    if formats.is_older(version):
        seen = f"version {version}, which programs of version 0.1 can use, too"
        return Check(
            "database: format",
            "warn",
            seen,
            "when vmbackup is updated on all hosts: vmbackup-admin statedb upgrade",
        )
    return Check("database: format", "ok", f"version {version}")


def examine_rights(root: Path, *, read_only: bool = False) -> Iterator[Check]:
    """Directories that others can change: who can write there can lose every backup's record.

    One line for all of them that have one fault.
    """
    found: dict[tuple[Verdict, str, str], list[Path]] = defaultdict(list)
    for name in ("", "gen", "history", "node", "tmp"):
        if wrong := _wrong_rights(root / name, read_only=read_only):
            found[wrong].append(root / name)
    for (verdict, what, hint), paths in found.items():
        places = " ".join(map(str, paths))
        yield Check(
            "database: rights",
            verdict,
            what.format(places),
            hint.format(shlex.join(map(str, paths))),
        )
    if not found:
        yield Check("database: rights", "ok", "only its owner and group may write there")


def _wrong_rights(path: Path, *, read_only: bool) -> tuple[Verdict, str, str] | None:
    """What is wrong with a directory, and what to do; `{}` stands for all such directories."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        return "fail", "{} is no directory", "find out who put it there"
    if status.st_mode & stat.S_IWOTH:
        hint = "chmod o-w {}; on SMB: the mount options dir_mode=0770,file_mode=0660"
        return "warn", "everybody may write to {}", hint
    if not read_only and not os.access(path, os.W_OK | os.X_OK):
        hint = (
            "workers must run as its owner, or in its group with the rights of the group; a user "
            "who only looks needs no right to write: `vmbackup-admin check`"
        )
        owner = f"(owner {status.st_uid}, group {status.st_gid})"
        return "fail", f"this user may not write to {{}} {owner}", hint
    if status.st_uid != os.geteuid() and not status.st_mode & stat.S_IWGRP:
        hint = "chown it to the user of the workers, or share it by a group: chmod 2770 {}"
        return "warn", f"{{}} belongs to another user ({status.st_uid})", hint
    return None


def _generations(root: Path) -> Iterator[Check]:
    found = inspection.inspect(root, history=False)
    for finding in found.findings:
        yield Check(
            "database: content", "warn" if finding.harmless else "fail", finding.what, finding.hint
        )
    if not found.findings:
        yield Check(
            "database: content",
            "ok",
            f"generations {found.oldest} to {found.newest} are whole, vmtool-statedb agrees",
        )


def _reserve(root: Path, keep_free: int) -> Check:
    if missing := database_reading.missing_reserve(root, keep_free):
        hint = "nothing needs to be done while there is room: the next tick makes it"
        return Check("database: reserve", "warn", missing, hint)
    size = text.size(reserve.present(root))
    return Check("database: reserve", "ok", f"{size} on the NAS, for clearing it when it is full")


def _nodes(database: Database) -> Iterator[Check]:
    try:
        contents = database.head().contents
        hosts.check_user(contents, database.identity.node, str(os.geteuid()))
    except (NodeConflictError, DatabaseDamagedError) as error:
        yield failed("database: this host", error)
        return
    identity = database.identity
    if not identity.machine:
        yield Check(
            "database: this host",
            "warn",
            "this machine has no machine id",
            "two hosts of one name would not be noticed",
        )
    else:
        yield Check("database: this host", "ok", f"{identity.node} is this machine")
    yield from _namesakes(contents)
    yield from _twins(contents)


def _namesakes(contents: Contents) -> Iterator[Check]:
    """Hosts whose names a NAS may take for one name."""
    for node in sorted(contents.nodes):
        if other := namesake_of(node, contents.nodes):
            yield Check(
                "database: hosts",
                "warn",
                f"the names {node} and {other} differ only in case: where the NAS does not tell "
                f"them apart, as over SMB, each overwrites the other's look",
                f"give one of them another host.node; then vmbackup-lock recover {quoted(node)}",
            )
            return


def _last_runs(database: Database, clock: Clock) -> Iterator[Check]:
    """Whether the workers of this host really run, as the NAS knows it."""
    identity = database.identity
    look = read_look(database.root / "node", identity.node, identity.machine)
    now = moment(clock.now().timestamp(), look)
    verdict = judge_host(identity.node, look, now, may_be_off=False)
    since = f" ({text.duration(verdict.seconds)})" if verdict.seconds is not None else ""
    seen = f"{verdict.reason}{since}"
    if verdict.level == Level.OK:
        yield Check("schedule: last runs", "ok", seen)
    else:
        hint = "look at the schedule, and run `vmbackup-worker -v run` by hand: it says why"
        yield Check("schedule: last runs", "warn", seen, hint)


def _twins(contents: Contents) -> Iterator[Check]:
    machines: dict[str, list[str]] = defaultdict(list)
    for node in contents.nodes.values():
        if node.machine:
            machines[node.machine].append(node.name)
    for names in machines.values():
        if len(names) > 1:
            hint = (
                "a host was renamed (then vmbackup-lock recover OLDNAME), or machines were "
                "cloned: give each its own /etc/machine-id"
            )
            yield Check(
                "database: hosts", "warn", f"{', '.join(sorted(names))} have one machine id", hint
            )
    for record in contents.vms.values():
        if record.also_on:
            hint = (
                "delete one of the two, or give the copy a UUID of its own (VBoxManage "
                "clonevm does); "
            )
            recover = " or ".join(
                f"vmbackup-lock recover {quoted(host)}" for host in (record.node, record.also_on)
            )
            hint += f"if a host is gone or was renamed: {recover}"
            yield Check(
                "database: VMs",
                "warn",
                f"{record.key} is on {record.node} and on {record.also_on}",
                hint,
            )


def _locks(database: Database) -> Iterator[Check]:
    contents = generations.newest_readable(database.root).contents
    dead = find_proven(database, contents)
    for grave in dead:
        seen = f"session {grave.session.id} is dead ({grave.reason}) and not recovered yet"
        yield Check(
            "database: locks",
            "warn",
            seen,
            "the next `vmbackup-worker database` does it; at once: vmbackup-lock recover",
        )
    earlier = [row for row in live_sessions(contents) if of_another_boot(row, database.identity)]
    seconds = three_beats(database.version.lease_seconds)
    for row in earlier:
        yield Check(
            "database: locks",
            "warn",
            f"session {row.id} is of an earlier boot of this machine, or of a full copy of it",
            f"the next `vmbackup-worker database` watches it for {seconds:.0f} s, and frees what "
            f"it held if it is silent; at once: vmbackup-lock recover",
        )
    found = database.files.perform(ReadLease())
    marker = parse_marker(found[0]) if found else None
    if marker is not None and is_provably_dead(marker):
        dead_holder = f"vmtool-dblock is held by process {marker.pid} of this host, which is gone"
        yield Check(
            "database: locks",
            "warn",
            dead_holder,
            "the next transaction takes it over; at once: vmbackup-lock break database",
        )
    elif not dead and not earlier:
        yield Check("database: locks", "ok", "nothing stale")
