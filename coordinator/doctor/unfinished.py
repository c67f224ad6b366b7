"""What a person has begun on this host and not ended: VMs that run from copies, disks that wait."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.doctor.result import Check
from shared.host.printable import option, printable, quoted
from shared.state.rules import holds
from shared.tasks import boot_note, boots_here
from shared.tasks.boots_here import Shown

if TYPE_CHECKING:
    from shared.host.configuration import Configuration
    from shared.site import Site
    from shared.virtualbox.inventory import Machine

_RUNS = "running from a copy"
_BACK = "taken back in place"
_HOLD = "database: holds"


def examine(configuration: "Configuration") -> Iterator[Check]:
    """Nothing where nothing is unfinished. Asks neither NAS nor VirtualBox."""
    from coordinator.restore import in_place_waiting

    state = configuration.host.state_directory
    for shown in boots_here.shown(state):
        hint = _remedy(shown)
        yield Check(_RUNS, "warn" if hint else "ok", shown.line, hint)
    for waiting in in_place_waiting.found(state, {}):
        yield Check(_BACK, "warn", waiting.words, waiting.remedy)


def examine_beside(state_directory: Path, machines: Collection["Machine"]) -> Iterator[Check]:
    """The disks of before beside those of VMs that were taken back, if no note knows of them."""
    from coordinator.restore import in_place_unnoted

    for machine in machines:
        if paths := in_place_unnoted.beside(machine, machines, state_directory):
            vm = machine.name or machine.uuid
            yield Check(_BACK, "warn", *in_place_unnoted.told(vm, paths, state_directory))


def _remedy(shown: Shown) -> str:
    """What to do about what runs from a copy and does not get on; empty if it does."""
    if shown.stuck is None:
        return ""
    why, name = shown.stuck.why, str(shown.document["name"])
    if why == "unread":
        return f"when that can be read: {shown.remedy}"
    if why == "room":
        return f"make room in {printable(str(shown.document['folder']))}: it goes on by itself"
    if why == "unmerged":
        return f"when it is off: {shown.remedy}"
    if why in ("unmerged_on", "unlisted", "stopped"):
        return shown.remedy
    return f"{shown.remedy}; or throw it away: {option('--discard', name)}"


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
