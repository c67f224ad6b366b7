"""vmfind: tells the database which VMs this host has.

New ones become NEW; those that are gone are shown as missing since when.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from shared import command_line
from shared.host.clock import timestamp
from shared.host.configuration import UNFINISHED, Configuration, decide
from shared.host.errors import ExitCode
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import hosts
from shared.state.rules.copies import FoundCopies
from shared.state.rules.sightings import Sighting, sight
from shared.tasks import boot_note, rehearsal_note
from shared.virtualbox.inventory import Machine
from worker.backup import undo
from worker.new_directories import NewDirectories
from worker.report import Report, start

log: Final = logging.getLogger(__name__)

#: What a VM may say of its backups is a word; of anything longer, the beginning is enough to be
#: shown.
LONGEST_WISH: Final = 40


def run(site: Site) -> Report:
    """Looks once. Commits only what has changed: VMs new, renamed, moved here, missing or back.

    Also whose VMs these are, if that was not known. If VBoxManage does not answer, nothing is taken
    for missing: the error is raised instead. Raises `NodeConflictError` for another user than the
    one whose VMs these are: each would take those of the other for missing.
    """
    head = site.database.head()
    identity, user = site.database.identity, str(os.geteuid())
    hosts.check_user(head.contents, site.node, user)
    machines = [
        machine
        for machine in undo.without_ours(site.inventory(), head.contents.vms.values())
        if not rehearsal_note.is_old(site, machine)
    ]
    directories = NewDirectories(site, head.contents)
    listed = sightings(
        head.contents, machines, directories.choose, site.configuration, directories.copies
    )
    running_from_copies = boot_note.unfinished(site.configuration.host.state_directory, machines)
    listed = [
        replace(each, left_out=UNFINISHED) if each.uuid in running_from_copies else each
        for each in listed
    ]
    when = timestamp(site.clock.now())

    def change(contents: Contents) -> Contents:
        hosts.check_user(contents, site.node, user)
        after = sight(contents, site.node, listed, when)
        # a database that was made anew of copies knows the VMs of a host, and not whose they are
        if after != contents or (listed and site.node not in contents.nodes):
            after = hosts.join(after, site.node, identity.machine, identity.hostname)
        return (
            hosts.set_user(after, site.node, user) if listed else after
        )  # who has no VMs may be anybody

    after = change(head.contents)
    if after == head.contents:
        return Report()
    news = list(_news(head.contents, after)) or [f"the VMs of {site.node} are those of uid {user}"]
    site.database.commit_once(change, "vmfind: " + "; ".join(news), "vmfind")
    for text in news:
        log.info("%s", text)
    _warn_of_another_home(site, head.contents, listed)
    return Report(done=news)


def _warn_of_another_home(site: Site, before: Contents, listed: Iterable[Sighting]) -> None:
    """Says so if this host has lost all of several VMs at once: then it is seldom their end."""
    own = {
        record.uuid
        for record in before.vms.values()
        if record.node == site.node and record.missing_since is None
    }
    if len(own) > 1 and own.isdisjoint(each.uuid for each in listed):
        log.warning(
            "not one of the %d VMs of %s is listed any more: is virtualbox.home (VBOX_USER_HOME) "
            "that of the user who owns them?",
            len(own),
            site.node,
        )


def sightings(
    contents: Contents,
    machines: Iterable[Machine],
    choose: Callable[[str, str], str],
    configuration: Configuration,
    copies: Callable[[str], FoundCopies | None] = lambda _uuid: None,
) -> list[Sighting]:
    """What there is to tell the database of the VMs that are listed.

    One whose settings cannot be read keeps its name and what was known of it.

    A new one is known by its UUID until they can.

    Only a new one needs a place for its copies, found by name and UUID, and may have some already:
    known ones cost a look into a table each.
    """
    known = {record.uuid: record for record in contents.vms.values() if record.uuid}
    found = []
    for machine in machines:
        record = known.get(machine.uuid)
        name = machine.name if machine.name is not None else record.name if record else machine.uuid
        described = machine.settings or record
        groups = described.groups if described else ()
        wish = described.wish[:LONGEST_WISH] if described else ""
        said = decide(configuration, name, groups, wish)
        found.append(
            Sighting(
                machine.uuid,
                name,
                record.directory if record else choose(name, machine.uuid),
                groups,
                wish,
                said.rule if said.left_out else "",
                None if record else copies(machine.uuid),
            )
        )
    return found


def _news(before: Contents, after: Contents) -> list[str]:
    old = {record.uuid: record for record in before.vms.values() if record.uuid}
    news = []
    for record in after.vms.values():
        known = old.get(record.uuid)
        if known is None or (known.taken_in_by and not record.taken_in_by):
            news.append(f"{record.key} found on {record.node}{_taken_back(record)}")
        elif known.node != record.node:
            news.append(f"{record.key} moved from {known.node} to {record.node}")
        elif known.name != record.name:
            news.append(f"{known.key} was renamed to {record.key}")
        elif known.left_out != record.left_out:
            news.append(
                f"{record.key} is left out of backups: {record.left_out}"
                if record.left_out
                else f"{record.key} is backed up again"
            )
        elif (known.groups, known.wish) != (record.groups, record.wish):
            news.append(f"{record.key} is in other groups, or says other things of its backups")
        elif known.missing_since != record.missing_since:
            news.append(f"{record.key} is {'missing' if record.missing_since else 'back'}")
        elif known.also_on != record.also_on and record.also_on:
            news.append(
                f"{record.key} is listed by {record.also_on}, too, while it belongs to "
                f"{record.node}"
            )
    return news


def _taken_back(record: VmRecord) -> str:
    """That a VM that was found has copies already."""
    if record.last_copy is None:
        return ""
    return f", goes on with its copies in {record.directory} (newest {record.last_copy.stamp})"


@command_line.documented(
    example="vmbackup-worker vmfind",
    codes=(ExitCode.NO_DATABASE, ExitCode.NAS, ExitCode.VBOXMANAGE),
)
@command_line.pass_invocation
def command(invocation: command_line.Invocation) -> ExitCode:
    """Tell the database which VMs this host has.

    New VMs become NEW, and go on with the copies that they have on the NAS without a record; VMs
    that this host no longer lists are shown as missing since when. Nothing is ever deleted.
    """
    return start(invocation, "vmfind", run)


if __name__ == "__main__":
    from worker.cli import program

    program.main(["vmfind", *sys.argv[1:]])
