"""What a person has begun on this host and not ended: VMs that run from copies, disks that wait."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from coordinator.doctor.result import Check
from shared.host.printable import option, printable, quoted
from shared.state.rules import holds
from shared.tasks import boot_note, boot_progress

if TYPE_CHECKING:
    from shared.host.configuration import Configuration
    from shared.site import Site

_RUNS = "running from a copy"
_BACK = "taken back in place"
_HOLD = "database: holds"


def examine(configuration: "Configuration") -> Iterator[Check]:
    """Nothing where nothing is unfinished. Asks neither NAS nor VirtualBox."""
    from coordinator.restore import in_place_waiting

    state = configuration.host.state_directory
    for shown in boot_progress.shown(state):
        hint = _remedy(shown.document)
        yield Check(_RUNS, "warn" if hint else "ok", shown.line, hint)
    for waiting in in_place_waiting.found(state, {}):
        yield Check(_BACK, "warn", waiting.words, waiting.remedy)


def _remedy(of: Mapping[str, Any]) -> str:
    """What to do about what runs from a copy and does not get on; empty if it does."""
    name = str(of["name"])
    if of["busy"]:
        return ""
    if of["served"] and of["unread"]:
        return f"when that can be read: {boot_progress.going_on(name, str(of['vm']))}"
    if of["served"] and of["short"]:
        return f"make room in {printable(str(of['folder']))}: it goes on by itself"
    if of["served"] and not of["problem"]:
        return ""
    finish, discard = (option(way, name) for way in ("--finish", "--discard"))
    if of["placed"]:
        return f"when it is off: vmbackup-admin boot {finish}"
    return f"vmbackup-admin boot {finish}; or throw it away: {discard}"


def examine_holds(site: "Site") -> Iterator[Check]:
    """The copies that stay because of VMs of this host of which nothing is noted here any more."""
    state = site.configuration.host.state_directory
    notes = list(boot_note.all_of(state))
    if len(notes) < len(list(state.glob("boot-*.json"))):
        return  # one that cannot be read, which is warned of, may be that of the VM
    noted = {(note.name, note.stamp) for note in notes}
    for held in holds.of_all(site.database.head().contents):
        hold = held.hold
        if hold.node == site.node and not hold.ended and (hold.name, hold.stamp) not in noted:
            yield Check(
                _HOLD,
                "warn",
                f"the copy {hold.stamp} of {printable(held.vm)} stays because "
                f"{printable(hold.name)} runs from it here, of which nothing is noted in {state}",
                f"if there is no such VM any more: vmbackup-lock break {quoted(hold.title)} "
                f"--force; {hold.loss}",
            )
