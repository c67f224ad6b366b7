"""Whether a VM must not meet its original, and its network cables pulled or plugged in."""

from collections.abc import Iterable
from typing import Final

from shared.host.errors import UsageError, VBoxManageError
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks.boot_note import BootNote
from shared.virtualbox.settings_writing import parse_settings, render_settings

_OFF: Final = frozenset({"poweroff", "aborted"})


def why_isolated(site: Site, record: VmRecord) -> str:
    """Why the VM must not meet its original unless that is wanted; empty: it cannot.

    What runs at this moment is not all: what a backup has stopped or is working on is started
    again, and what is saved goes on. Raises `VBoxManageError`, `NasError`.
    """
    vms = site.database.head().contents.vms.values()
    record = next((vm for vm in vms if vm.uuid == record.uuid), record)
    if record.node != site.node:
        return f"the original belongs to {record.node or 'an unknown host'}, which cannot be asked"
    machine = site.inventory().get(record.uuid)
    if machine is not None and machine.running:
        return "the original runs"
    if record.power is not None:
        return "a backup has stopped the original, and starts it again"
    if record.claim is not None:
        return f"the original is claimed for {record.claim.purpose}, and may run again"
    return _why_not_off(site, record.uuid) if machine is not None else ""


def _why_not_off(site: Site, uuid: str) -> str:
    try:
        state = site.vboxmanage.info(uuid).state
    except VBoxManageError:
        return "the original cannot be asked"
    return "" if state in _OFF else f"the original is {state}"


def isolated(data: bytes) -> bytes:
    """The same settings, and nothing plugged into any network card. Raises `SettingsError`."""
    tree = parse_settings(data)
    for adapter in tree.iterfind("Machine/Hardware/Network/Adapter"):
        adapter.set("cable", "false")
    return render_settings(tree)


def require_network(site: Site, note: BootNote, *, wanted: bool) -> None:
    """Raises `UsageError` if one that was begun before has its cables otherwise than is `wanted`.

    Nothing changes them any more: they are its user's since it was begun.
    """
    info = site.vboxmanage.info(note.uuid)
    if wanted:
        wrong = () if info.plugged else info.unplugged
        said = "no network cable of it is plugged in: --network"
    else:
        wrong, said = info.plugged, "a network cable of it is plugged in: --isolated"
    if wrong:
        how = cabling(note.uuid, wrong, on=wanted, running=not info.stopped)
        raise UsageError(
            f"{note.name!r} was begun before, and {said} is for one that is made",
            hint=f"{how}; then again",
        )


def plugged_cards(settings: bytes) -> tuple[int, ...]:
    """The numbers of the network cards that have a cable plugged in. Raises `SettingsError`."""
    return tuple(
        int(adapter.get("slot", "0")) + 1
        for adapter in parse_settings(settings).iterfind("Machine/Hardware/Network/Adapter")
        if adapter.get("enabled") == "true" and adapter.get("cable", "true") == "true"
    )


def cabling(uuid: str, cards: Iterable[int], *, on: bool, running: bool) -> str:
    """The command that plugs the cables of these cards in, or out."""
    state = "on" if on else "off"
    if not running:
        return " ".join(
            ["VBoxManage modifyvm", uuid, *(f"--cableconnected{card} {state}" for card in cards)]
        )
    return " && ".join(f"VBoxManage controlvm {uuid} setlinkstate{card} {state}" for card in cards)
