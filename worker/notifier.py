"""notifier: tells the database what happened to this host's VMs.

Which run, which stopped, which were used since their last copy.
"""

import logging
import sys
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from shared import command_line
from shared.host.clock import is_over, timestamp
from shared.host.configuration import VmPolicy
from shared.host.errors import DatabaseVersionError, ExitCode
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import sightings
from shared.state.sessions.host_look import WorkerEnd
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.state.sessions.worker_ends import read_ends
from shared.state.states import Event, State
from shared.tasks import hold_judgement
from shared.virtualbox.fingerprint import Fingerprint, differences, fingerprint_of
from shared.virtualbox.inventory import Machine
from worker.report import Report, start

log: Final = logging.getLogger(__name__)


def run(site: Site) -> Report:
    """Looks once. Commits only if something changed; all changes of a tick are one commit.

    That it looked, and at which VMs, is noted on the NAS at the end, without a commit.
    """
    head = site.database.head()
    mine = [
        record
        for record in head.contents.vms.values()
        if record.node == site.node and record.claim is None
    ]
    watched = [
        record for record in mine if record.status not in (State.ARCHIVED, State.BACKUP_IN_PROGRESS)
    ]
    if not watched:
        note_look(site, head.contents, {}, {})
        return Report()
    now = site.clock.now()
    due = {
        record.uuid
        for record in watched
        if not site.backup_rule(record).left_out and is_due(record, site.policy(record), now)
    }
    inventory = site.inventory()
    events, problems, news = _compare(inventory, watched, due)
    when = timestamp(now)

    def change(contents: Contents) -> Contents:
        return sightings.note_problems(sightings.apply_events(contents, events), problems, when)

    if change(head.contents) == head.contents:
        note_look(site, head.contents, inventory, events)
        return Report()
    site.database.commit_once(change, "notifier: " + "; ".join(news.values()), "notifier")
    note_look(site, head.contents, inventory, events)
    for key, text in news.items():
        log.log(
            logging.WARNING
            if key in {record.key for record in watched if record.uuid in problems}
            else logging.INFO,
            "%s",
            text,
        )
    return Report(done=list(news))


def _compare(
    inventory: Mapping[str, Machine], records: list[VmRecord], due: Collection[str]
) -> tuple[Mapping[str, tuple[Event, ...]], Mapping[str, str], Mapping[str, str]]:
    """Events by UUID, what is wrong with VMs by UUID (empty: no longer), what to say, by key."""
    events: dict[str, tuple[Event, ...]] = {}
    problems: dict[str, str] = {}
    news: dict[str, str] = {}
    for record in records:
        machine = inventory.get(record.uuid)
        if machine is None:
            continue  # vmfind's business
        problem = "" if machine.accessible else sightings.cannot_use(machine.reason)
        if problem or sightings.is_unusable(record):
            problems[record.uuid] = problem
            news[record.key] = f"{record.key}: {problem or 'VirtualBox can use it again'}"
        if problem:
            continue
        happened, text = observe(record, machine, due=record.uuid in due)
        if happened:
            events[record.uuid] = happened
            news[record.key] = f"{record.key} {text}"
    return events, problems, news


def note_look(
    site: Site,
    contents: Contents,
    inventory: Mapping[str, Machine],
    events: Mapping[str, tuple[Event, ...]],
) -> None:
    """Notes on the NAS that this host looked, how its workers ended, and what became of its VMs.

    A note that cannot be written is done without: others then see that nobody looks.
    """
    mine = {record.uuid: record for record in contents.vms.values() if record.node == site.node}
    examined = [uuid for uuid in mine if uuid in inventory and inventory[uuid].accessible]
    unchanged = [
        uuid
        for uuid in examined
        if mine[uuid].status == State.CLEAN and mine[uuid].claim is None and uuid not in events
    ]
    host, nas = site.configuration.host, site.configuration.nas
    ends = {
        **read_ends(host.state_directory, nas.mountpoint),
        "notifier": WorkerEnd(ExitCode.DONE, timestamp(site.clock.now())),
    }
    try:
        site.database.require_writable()
        here = hold_judgement.stuck_here(site, contents)
        stuck = {name: why for name, why in here.items() if why is not None}
        seen = VmsSeen(mine, examined, unchanged, stuck)
        write_look(site.database.root / "node", site.identity, site.clock, seen, ends)
    except (OSError, DatabaseVersionError) as error:
        log.info("not noted on the NAS that this host looked: %s", error)


def observe(
    record: VmRecord, machine: Machine, *, due: bool = False
) -> tuple[tuple[Event, ...], str]:
    """What happened to a VM, judged by how it looks now; no events if nothing did.

    `due`: it is to be backed up although it runs.
    """
    status = record.status
    if machine.running:
        seen = (
            ()
            if status in ((State.RUNNING, State.BACKUP_NECESSARY) if due else (State.RUNNING,))
            else (Event.SEEN_RUNNING,)
        )
        if due and status != State.BACKUP_NECESSARY:
            return (*seen, Event.DUE), "runs, and is to be backed up all the same"
        return seen, "runs"
    if status in (State.NEW, State.RUNNING):
        return (
            Event.SEEN_STOPPED,
        ), "has stopped" if status == State.RUNNING else "is to be backed up"
    if status != State.CLEAN:
        return (), ""
    if record.last_copy is None:
        return (Event.CHANGED,), "has no copy"
    changed = differences(
        Fingerprint.from_json(record.last_copy.fingerprint), fingerprint_of(machine)
    )
    return ((Event.CHANGED,), f"was used or changed: {', '.join(changed)}") if changed else ((), "")


def is_due(record: VmRecord, policy: VmPolicy, now: datetime) -> bool:
    """Whether a VM is to be backed up although it runs.

    Its policy is not to defer it, and its last backup is old enough.

    A copy that is dated in the future says nothing of when that was. The time of the last
    publication is asked, too: even if such a copy goes on counting as the last one, the VM is
    backed up once because of it, and not at each tick.
    """
    if policy.running == "defer":
        return False
    if record.last_copy is None:
        return True
    return all(
        is_over(now, moment, policy.running_hours * 3600)
        for moment in (record.last_copy.finished, record.backed_up)
    )


@command_line.documented(
    example="vmbackup-worker notifier",
    codes=(ExitCode.NO_DATABASE, ExitCode.NAS, ExitCode.VBOXMANAGE),
)
@command_line.pass_invocation
def command(invocation: command_line.Invocation) -> ExitCode:
    """Tell the database what happened to the VMs of this host.

    A VM that runs becomes RUNNING. One that has stopped, or that was used or changed since its last
    copy, becomes BACKUP_NECESSARY.
    """
    return start(invocation, "notifier", run)


if __name__ == "__main__":
    from worker.cli import program

    program.main(["notifier", *sys.argv[1:]])
