"""Holds on copies in the records of their VMs: placed, ended, settled with the sidecars. Pure.

A hold is written to the record first, then to the copy's sidecar; its end is noted in the record,
then the sidecar is freed, then the record. What a crash leaves between keeps the copy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shared.host.errors import IllegalMoveError, LockedError
from shared.state.contents import Contents
from shared.state.hold import Hold, merged, over
from shared.state.records import Claim, VmRecord
from shared.state.rules import claims, readers, vm_records


@dataclass(frozen=True, slots=True)
class Held:
    """A hold, and the record of the VM whose copy it is of."""

    record: VmRecord
    hold: Hold

    @property
    def vm(self) -> str:
        """The key of the VM whose copy it is of, not of the one that runs from it."""
        return self.record.key

    @property
    def uuid(self) -> str:
        """The UUID of that VM."""
        return self.record.uuid


def place(contents: Contents, key: str, hold: Hold) -> Contents:
    """Holds a copy of the VM `key`, whoever works on that VM meanwhile.

    The same again changes nothing, but tells the UUID if that was not known; so does one that goes
    on after its end was noted. Raises `LockedError` while copies of the VM are being moved or
    removed, and if that host's VM holds another copy; `IllegalMoveError` if it was begun with other
    bytes.
    """
    record = vm_records.find(contents, key)
    for other in of_all(contents):
        same = (other.uuid.lower(), other.hold.stamp) == (record.uuid.lower(), hold.stamp)
        if other.hold.holder == hold.holder and not same and not other.hold.ended:
            raise LockedError(
                f"{hold.name} on {hold.node} runs from {other.hold.stamp} of {other.vm}",
                hint=other.hold.ends,
            )
    known = next((each for each in record.holds if _same(each, hold)), None)
    if known is not None and not known.ended:
        if known.index != hold.index:
            raise IllegalMoveError(
                f"{hold.name} on {hold.node} was begun with other bytes of {hold.stamp}",
                hint=known.ends,
            )
        hold = replace(known, uuid=hold.uuid or known.uuid)
    else:
        readers.require_staying(record, hold.stamp)
    return contents.with_vm(replace(record, holds=_with(record, hold)))


def end(contents: Contents, held: Held, when: str) -> Contents:
    """Notes that a hold is over. Changes nothing if it is gone, or its VM is."""
    record = next(
        (vm for vm in contents.vms.values() if held.uuid and vm.uuid == held.uuid),
        contents.vms.get(held.vm),
    )
    if record is None:
        return contents
    known = next((each for each in record.holds if _same(each, held.hold)), held.hold)
    ended = over(known, when)
    return contents.with_vm(replace(record, holds=_with(record, ended)))


def claim(contents: Contents, key: str, session: str, when: str, floor: int = 0) -> Contents:
    """Claims the VM for the moment in which sidecars and record are made to agree.

    Also while what a backup did to the VM was not undone. Raises like `claims.grant`.
    """
    power = vm_records.find(contents, key).power
    rest = contents.with_vm(replace(contents.vms[key], power=None))
    granted = claims.grant(rest, key, session, "pin", when, floor=floor)
    return granted.with_vm(replace(granted.vms[key], power=power))


def settled(contents: Contents, key: str, own: Claim, marked: Iterable[Hold]) -> Contents:
    """Sidecars and record agree: what is over goes, what only sidecars tell is taken over.

    `marked` are the holds in the sidecars. Lets go of the VM.
    """
    record = claims.held(contents, key, own)
    going = [hold for hold in record.holds if hold.ended]
    kept = [hold for hold in record.holds if not hold.ended]
    told = (hold for hold in marked if not any(_same(hold, each) for each in going))
    return contents.with_vm(replace(record, claim=None, holds=merged(kept, told)))


def of_all(contents: Contents) -> list[Held]:
    """All holds, by VM."""
    return [
        Held(contents.vms[key], hold)
        for key in sorted(contents.vms)
        for hold in contents.vms[key].holds
    ]


def named(contents: Contents, name: str) -> list[Held]:
    """The holds that a person means: one by its title, or those on the copies of a VM."""
    found = of_all(contents)
    return [each for each in found if each.vm == name] or [
        each for each in found if each.hold.title == name
    ]


def stamps(record: VmRecord) -> frozenset[str]:
    """The copies of a VM that are held, as its record tells."""
    return frozenset(hold.stamp for hold in record.holds)


def _with(record: VmRecord, hold: Hold) -> tuple[Hold, ...]:
    return merged((hold,), record.holds)


def _same(one: Hold, other: Hold) -> bool:
    return (one.holder, one.stamp) == (other.holder, other.stamp)
