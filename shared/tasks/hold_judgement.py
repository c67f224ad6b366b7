"""Whether the VMs get on that run from copies, as their hosts tell."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.host.printable import option, printable
from shared.site import Site
from shared.state.contents import Contents
from shared.state.hold import Hold
from shared.state.records import VmRecord
from shared.state.rules import holds
from shared.state.sessions.host_look import HostLook, Stuck, read_looks
from shared.tasks import boot_note, boot_progress

if TYPE_CHECKING:
    from shared.tasks.judgement import Verdict

_WORDS: Final[Mapping[str, str]] = {
    "unserved": "nothing serves its disks",
    "unmerged": "it needs that no more, " + boot_progress.UNMERGED,
    "unnoted": "its host has no note of it that can be read",
    "unread": "VirtualBox has paused it, as its guest asked for what could not be read",
    "room": "its disks are not filled, for want of room",
}
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
    found = boot_progress.stuck_here(state)
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


def of_holds(record: VmRecord, stuck: AllStuck) -> Iterable["Verdict"]:
    """What is to be said of a VM from whose copies others run that do not get on."""
    from shared.tasks.judgement import Level, Verdict, on  # only here: a tick notes, and judges not

    for hold in record.holds:
        why = stuck.get(hold.holder)
        if why is not None and not hold.ended:
            reason = f"{printable(hold.name)} on {hold.node} runs from its copy {hold.stamp}, and "
            yield Verdict(
                *(record.key, Level.WARNING, "stuck", reason + words(why)),
                remedy=on(hold.node, _remedy(hold, why, record.key)),
            )


def words(stuck: Stuck) -> str:
    """Why it does not get on."""
    said, known = printable(stuck.said), _WORDS.get(stuck.why, "")
    return f"{known} ({said})" if known and said else known or said or "does not get on"


def _remedy(hold: Hold, stuck: Stuck, vm: str) -> str:
    if stuck.why == "unread":
        return boot_progress.going_on(hold.name, vm)
    if stuck.why in ("room", "unnoted"):
        return "vmbackup-admin doctor"
    return f"vmbackup-admin boot {option('--finish', hold.name)}"
