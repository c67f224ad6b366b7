"""Whether the VMs get on that run from copies, as their hosts tell."""

from collections.abc import Iterable, Mapping
from typing import Final

from shared.host.printable import option, printable
from shared.site import Site
from shared.state.contents import Contents
from shared.state.hold import Hold
from shared.state.records import VmRecord
from shared.state.sessions.host_look import HostLook, Stuck, read_looks
from shared.tasks import boot_progress
from shared.tasks.judgement import Level, Verdict, on

_WORDS: Final[Mapping[str, str]] = {
    "unserved": "nothing serves its disks",
    "unmerged": "it needs that no more, " + boot_progress.UNMERGED,
    "unread": "VirtualBox has paused it, as its guest asked for what could not be read",
    "room": "its disks are not filled, for want of room",
}
#: What does not get on, by host and name.
AllStuck = Mapping[tuple[str, str], Stuck]


def all_stuck(site: Site, looks: Mapping[str, HostLook | None]) -> AllStuck:
    """What does not get on, on any host: as each has noted, and as it is here by now."""
    found = {
        (node, name): why
        for node, look in looks.items()
        if look is not None
        for name, why in look.stuck.items()
    }
    here = boot_progress.stuck_here(site.configuration.host.state_directory)
    for name, now in here.items():
        found.pop((site.node, name), None)
        if now is not None:
            found[site.node, name] = now
    return found


def read_stuck(site: Site, contents: Contents) -> AllStuck:
    """The same, by what all hosts have noted. Raises `NasError`."""
    with site.database.nas_errors():
        return all_stuck(site, read_looks(site.database.root / "node", contents.nodes))


def of_holds(record: VmRecord, stuck: AllStuck) -> Iterable[Verdict]:
    """What is to be said of a VM from whose copies others run that do not get on."""
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
    if stuck.why == "room":
        return "vmbackup-admin doctor"
    return f"vmbackup-admin boot {option('--finish', hold.name)}"
