"""`vmbackup-lock list`."""

from collections.abc import Mapping, Sequence

import click

from coordinator import database_reading, hold_words, liveness, locks_held, text
from coordinator.locks_held import Lock
from coordinator.options import FiniteRange
from coordinator.vm_rows import unfinished_text
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.output import pasteable, print_json, say, warn
from shared.state.contents import Contents
from shared.state.rules import holds, unfinished
from shared.tasks.hold_judgement import read_stuck


@documented(
    example="""
        vmbackup-lock list
        vmbackup-lock list --json | jq '.locks[] | select(.state != "live")'
        vmbackup-lock list --watch 60
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@json_option
@click.option(
    "--watch",
    type=FiniteRange(0.1, 3600),
    metavar="SECONDS",
    help="Watch heartbeats that long to tell who lives.",
)
@pass_invocation
def command(invocation: Invocation, *, as_json: bool, watch: float | None) -> None:
    """Who holds what: on which host, alive or not, since when, last heartbeat, doing what, how far.

    The verdict: `live`; `dead`, by proof on this host, or of an earlier boot of it and silent for
    three heartbeats while it was watched; `expired`, silent for the whole lease time while it was
    watched; `unknown`, silent or not to be judged from here at once. Workers recover dead and
    expired ones by themselves.

    Then the copies that VMs run from, which stay until that is over, and how far the disks of those
    on this host are filled; and what was begun for VMs and is done by nobody now, since when, and
    who finishes it.
    """
    from shared.state.sessions.deaths import live_sessions
    from shared.tasks import boots_here

    site = invocation.site(reading=True)
    found = database_reading.read(site)
    contents = found.snapshot.contents
    watched = liveness.watch(site, live_sessions(contents), watch) if watch else None
    told = list(found.warnings)
    locks = locks_held.gather(site, contents, watched, told=told.append)
    begun = unfinished.of_all(contents.vms.values())
    held = hold_words.documents(holds.of_all(contents), read_stuck(site, contents))
    booted = boots_here.shown(site.configuration.host.state_directory)
    if as_json:
        print_json(
            {
                "schema": 1,
                "locks": [lock.to_json() for lock in locks],
                "holds": held,
                "running_from_copies": [each.document for each in booted],
                "unfinished": [each.to_json() for each in begun],
                "warnings": told,
            }
        )
        return
    for warning in told:
        warn(warning)
    _print_locks(locks, names_in(contents))
    now = site.clock.now()
    _print_below(
        "Copies that VMs run from, which stay where they are:",
        [hold_words.line(hold, now) for hold in held],
    )
    _print_below("Running from copies on this host:", [each.line for each in booted])
    _print_below(
        "Unfinished, and nobody works on it:",
        [f"{each.vm}: {unfinished_text(each.to_json(), now)}" for each in begun],
    )


def _print_locks(locks: Sequence[Lock], names: Mapping[str, str]) -> None:
    if not locks:
        say("Nothing is locked: no worker is at work.")
        return
    text.print_table(
        ["NAME", "KIND", "HOST", "PID", "HELD", "HEARTBEAT", "STATE", "DOING"],
        [_columns(lock, names) for lock in locks],
    )


def _print_below(heading: str, lines: Sequence[str]) -> None:
    if lines:
        say(heading)
    for line in lines:
        say(f"  {pasteable(line)}")


def _columns(lock: Lock, names: Mapping[str, str]) -> list[str]:
    return [
        lock.name,
        lock.kind,
        lock.node or lock.host,
        str(lock.pid or ""),
        text.duration(lock.held_seconds),
        text.duration(lock.heartbeat_seconds),
        lock.state,
        doing(lock, names),
    ]


def names_in(contents: Contents) -> Mapping[str, str]:
    """What VMs are called in the database, by UUID."""
    return {record.uuid: key for key, record in contents.vms.items()}


def doing(lock: Lock, names: Mapping[str, str]) -> str:
    """What the holder does and how far it is, in a few words.

    `names`: what VMs are called, by UUID, of which a copy that is read tells one.
    """
    words = [lock.purpose or lock.worker or "transaction"]
    if lock.kind == "session" and lock.vm:
        uuid, slash, stamp = lock.vm.partition("/")
        words.append(f"{names[uuid]}{slash}{stamp}" if uuid in names else lock.vm)
    if lock.phase:
        words.append(lock.phase)
    if lock.percent is not None:
        words.append(f"{lock.percent:.0f} %")
    if lock.bytes_done is not None:
        words.append(f"({text.size(lock.bytes_done)})")
    return " ".join(words)
