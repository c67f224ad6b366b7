"""`vmbackup-lock show`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from coordinator import database_reading, hold_break, hold_words, locks_held, text
from coordinator.commands.lock_list import doing, names_in
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import LOCK
from shared.host.errors import ExitCode, UsageError
from shared.output import pasteable, print_json, say
from shared.tasks.hold_judgement import read_stuck

if TYPE_CHECKING:
    from coordinator.locks_held import Lock
    from shared.state.contents import Contents


@documented(
    example="""
        vmbackup-lock show web01
        vmbackup-lock show database --json
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("name", type=LOCK)
@json_option
@pass_invocation
def command(invocation: Invocation, *, name: str, as_json: bool) -> None:
    """One lock in full. NAME is a VM, a session or a hold as `list` shows it, or `database`."""
    site = invocation.site(reading=True)
    contents = database_reading.read(site).snapshot.contents
    locks = locks_held.gather(site, contents)
    held = hold_words.documents(hold_break.find(site, contents, name), read_stuck(site, contents))
    lock = None if held and name not in contents.vms else find(locks, contents, name)
    if as_json:
        print_json({"schema": 1, "lock": lock.to_json() if lock else None, "holds": held})
        return
    if lock is not None:
        text.print_facts(_facts(lock, names_in(contents)))
    elif not held:
        say(f"{name} is not locked")
    for each in held:
        say(f"Held: {hold_words.line(each, site.clock.now())}")


def find(locks: "list[Lock]", contents: "Contents", name: str) -> "Lock | None":
    """The lock of that name; None if it is not held.

    Raises `UsageError` if there is no such VM or session at all.
    """
    lock = next((lock for lock in locks if lock.name == name), None)
    if (
        lock is None
        and name != locks_held.DATABASE
        and name not in contents.vms
        and name not in contents.sessions
    ):
        raise UsageError(
            f"{name!r} is neither a VM nor a session nor a hold nor `database`",
            hint="vmbackup-lock list shows what is locked",
        )
    return lock


def _facts(lock: "Lock", names: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        ("Lock", f"{lock.name} ({lock.kind})"),
        ("State", pasteable(f"{lock.state}: {lock.why}")),
        ("Session", lock.session or ""),
        ("Host", f"{lock.node} ({lock.host})" if lock.node != lock.host else lock.host),
        ("Process", str(lock.pid or "")),
        ("Doing", doing(lock, names)),
        ("VM", lock.vm or ""),
        (
            "Held since",
            f"{text.local(lock.since)}, {text.duration(lock.held_seconds)}" if lock.since else "",
        ),
        (
            "Last heartbeat",
            f"{text.duration(lock.heartbeat_seconds)} ago"
            if lock.heartbeat_seconds is not None
            else "unknown",
        ),
        ("Lease time", text.duration(lock.lease_seconds)),
    ]
