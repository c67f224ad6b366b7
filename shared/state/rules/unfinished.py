"""Work that was begun for a VM and that nobody does now. Pure.

What it is, since when, and whose database worker finishes it: the one place that knows. While
somebody holds the VM, nothing of it is unfinished.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from shared.host.printable import quoted
from shared.state.contents import Contents
from shared.state.records import Power, VmRecord

Kind = Literal["publication", "move", "power", "leftovers", "hold"]

#: What a backup did to a VM, by its method.
DONE_TO: Final = {
    "savestate": "a backup saved it",
    "shutdown": "a backup shut it down",
    "live": "a backup made a snapshot and a clone of it",
    "pause": "a backup paused it for a moment and made a clone of it",
}
#: Methods after which a VM is off until somebody starts it.
_STOPPED_BY: Final = frozenset({"savestate", "shutdown"})


@dataclass(frozen=True, slots=True)
class Unfinished:
    """One piece of unfinished work.

    `since` is empty if nobody noted it. `host` is the one whose database worker finishes it; empty:
    that of any host does.
    """

    vm: str
    kind: Kind
    what: str
    since: str
    host: str = ""

    @property
    def finisher(self) -> str:
        """Who finishes it, in words."""
        return f"the next database worker {f'on {self.host}' if self.host else 'of any host'}"

    def to_json(self) -> dict[str, Any]:
        """As commands show it."""
        return {
            **asdict(self),
            "since": self.since or None,
            "host": self.host or None,
            "finisher": self.finisher,
        }


def of(record: VmRecord) -> tuple[Unfinished, ...]:
    """What was begun for a VM and is done by nobody now."""
    if record.claim is not None:
        return ()
    key, found = record.key, list[Unfinished]()
    if (copy := record.publishing) is not None:
        what = f"the copy {copy.stamp} has to be put in place"
        found.append(Unfinished(key, "publication", what, copy.finished))
    if record.moving is not None:
        what = f"{record.moving} was interrupted"
        found.append(Unfinished(key, "move", what, record.moving_since))
    if (power := record.power) is not None:
        found.append(Unfinished(key, "power", _not_undone(power), power.since, record.node))
    if record.leftovers:
        what = "partial files of a worker that died or was stopped have to be removed"
        found.append(Unfinished(key, "leftovers", what, record.leftovers_since))
    for hold in record.holds:
        if hold.ended:
            what = f"the copy {hold.stamp} has to be marked as not held any more by {hold.title}"
            found.append(Unfinished(key, "hold", what, hold.ended))
    return tuple(found)


def _not_undone(power: Power) -> str:
    off = ", and has not started it again: it may be off" if power.method in _STOPPED_BY else ""
    return DONE_TO[power.method] + off


def of_all(records: Iterable[VmRecord]) -> list[Unfinished]:
    """The unfinished work of VMs, sorted by VM."""
    return [each for record in sorted(records, key=lambda vm: vm.key) for each in of(record)]


def finished_by(record: VmRecord) -> str:
    """The hint of whoever has to wait for a VM's unfinished work: who finishes it."""
    if record.power is None:
        return "the next database worker does that"
    return (
        f"vmbackup-worker database on the host {record.node} does that; if that host never comes "
        f"back: vmbackup-lock recover {quoted(record.node)}"
    )


def is_foreign(record: VmRecord) -> bool:
    """Whether another host stopped the VM: who has it now must not start it because of that."""
    power = record.power
    return (
        power is not None
        and power.method in _STOPPED_BY
        and bool(power.node)
        and power.node != record.node
    )


def noted_by(power: Power | None, node: str) -> Power | None:
    """`power` with the host that noted it, where an older release left that out."""
    return replace(power, node=node) if power is not None and not power.node else power


def leave_power(contents: Contents, keys: Iterable[str]) -> Contents:
    """Notes that nobody undoes what a backup did to these VMs.

    They can be worked on again. One that somebody holds, or that is as it was found, is passed
    over: may be repeated.
    """
    for key in keys:
        record = contents.vms.get(key)
        if record is not None and record.power is not None and record.claim is None:
            left = noted_by(record.power, record.node)
            contents = contents.with_vm(replace(record, power=None, power_left=left))
    return contents


def take_back_power(contents: Contents, uuid: str, node: str, power: Power) -> Contents:
    """Notes again what a backup did to a VM of `node`, of which a lost database knew.

    Changes nothing if somebody holds the VM, or something of that kind is noted already.
    """
    for record in contents.vms.values():
        ours = record.uuid == uuid and record.node == node
        if ours and record.claim is None and record.power is None:
            return contents.with_vm(replace(record, power=power))
    return contents


def without_power_left(contents: Contents, key: str, left: Power) -> Contents:
    """Notes that the host which has the VM said what of `left` may still be there."""
    record = contents.vms.get(key)
    if record is None or record.power_left != left:
        return contents
    return contents.with_vm(replace(record, power_left=None))


def may_remain(record: VmRecord, left: Power) -> str:
    """What may still be off, saved, or there on a VM's host, and what its operator does then."""
    host = left.node or record.node
    if left.method in _STOPPED_BY:
        state = "saved" if left.method == "savestate" else "off"
        return (
            f"{DONE_TO[left.method]} on {host}, where it was {left.found}: it may still be "
            f"{state}, and nobody starts it by itself (VBoxManage startvm {quoted(record.uuid)} "
            f"--type headless); if it shall stay so: vmbackup-lock recover, on that host"
        )
    clone = f" with the UUID {left.clone}" if left.clone else ""
    folder = f", and the folder {left.folder}" if left.folder else ""
    made = "a VM" if left.method == "pause" else "a snapshot and a VM"
    still = f"; it may still be paused (VBoxManage controlvm {quoted(record.uuid)} resume)"
    return (
        f"{DONE_TO[left.method]} on {host}: {made} called {left.tag}{clone}{folder} "
        f"may still be there, and nobody removes them by itself"
        f"{still if left.method == 'pause' else ''}"
    )
