"""Whether the VMs get on that run from copies, as their hosts tell."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.host.printable import printable
from shared.site import Site
from shared.state.contents import Contents
from shared.state.hold import Hold
from shared.state.records import VmRecord
from shared.state.rules import holds
from shared.state.sessions.host_look import HostLook, Stuck, read_looks
from shared.tasks import boot_note, boot_remedies, boots_here

if TYPE_CHECKING:
    from shared.tasks.judgement import Moment, Verdict

_UNBACKED: Final = (
    "is in no backup before it was shut down: then it becomes an ordinary VM, once it is filled"
)
#: What does not get on, by host and name.
AllStuck = Mapping[tuple[str, str], Stuck]


def all_stuck(site: Site, contents: Contents, looks: Mapping[str, HostLook | None]) -> AllStuck:
    """What does not get on, on any host: as each has noted, and as it is here by now."""
    found = {
        (node, name): why
        for node, look in looks.items()
        if look is not None
        for name, why in look.stuck.items()
    }
    for name, now in stuck_here(site, contents).items():
        found.pop((site.node, name), None)
        if now is not None:
            found[site.node, name] = now
    return found


def stuck_here(site: Site, contents: Contents) -> dict[str, Stuck | None]:
    """What runs from copies on this host, by name, and why it does not get on; None if it does.

    By the notes of this host, and by the holds that it has and of which it has no note that can be
    read. Nothing where another user may not see that.
    """
    state = site.configuration.host.state_directory
    found = boots_here.stuck_here(state)
    if not _has_our_notes(site, contents, state):
        return found
    noted = {note.name for note in boot_note.all_of(state)}
    for held in holds.of_all(contents):
        hold = held.hold
        if hold.node == site.node and not hold.ended and hold.name not in noted:
            found[hold.name] = Stuck("unnoted")
    return found


def _has_our_notes(site: Site, contents: Contents, state: Path) -> bool:
    """Whether what this host has begun is noted there: its own user's, on the machine itself."""
    known, user = contents.nodes.get(site.node), os.geteuid()
    try:
        same = state.stat().st_uid == user
    except FileNotFoundError:
        same = True  # it is lost with all notes
    except OSError:
        same = False
    if known is None or known.machine != site.identity.machine:
        return False
    return same and known.user in ("", str(user))


def read_stuck(site: Site, contents: Contents) -> AllStuck:
    """The same, by what all hosts have noted. Raises `NasError`."""
    with site.database.nas_errors():
        return all_stuck(site, contents, read_looks(site.database.root / "node", contents.nodes))


def of_holds(
    record: VmRecord, stuck: AllStuck, now: "Moment", allowed: Callable[[Hold], float]
) -> Iterable["Verdict"]:
    """What is to be said of a VM from whose copies others run that do not get on, or for long.

    `allowed`: for how many seconds one may run that is in no backup.
    """
    # only here: a tick notes, and judges not
    from shared.tasks.judgement import Level, Verdict, on, seconds_ago

    for hold in record.holds:
        if hold.ended:
            continue
        why, age = stuck.get(hold.holder), seconds_ago(hold.since, now)
        about = f"{printable(hold.name)} on {hold.node} runs from its copy {hold.stamp} "
        about += f"since {printable(hold.since)}, and "
        if why is not None:
            said = about + boot_remedies.words(why)
            remedy = on(hold.node, boot_remedies.remedy(why, hold.name, hold.uuid, record.key))
            yield Verdict(record.key, Level.WARNING, "stuck", said, remedy=remedy)
        elif age is not None and age > allowed(hold):
            remedy = on(hold.node, boot_remedies.when_off(hold.name))
            yield Verdict(record.key, Level.WARNING, "unsettled", about + _UNBACKED, age, remedy)
