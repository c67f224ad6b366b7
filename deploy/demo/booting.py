"""The part of the demo in which a VM runs from its copy, on a host that never had it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from deploy.demo.stage import DemoFailedError, wait_until
from shared.host.errors import ConfigurationError
from shared.serving import places
from tests.support.served import shared_place
from tests.support.virtualbox import RealHost, RealVm

if TYPE_CHECKING:
    from deploy.demo.narration import Narrator
    from deploy.demo.stage import Actor

#: A guest needs that long on a machine with much to do, as the tests with real VirtualBox know.
_LONGEST_SECONDS: Final = 120.0


def show(actor: "Actor", narrator: "Narrator", name: str, number: int) -> None:
    """Runs `name`, whose guest had counted to `number`, from its copy on the host of `actor`.

    Says why not where this machine cannot do that.
    """
    narrator.heading("No time to restore: a VM runs from its copy, on the other host")
    if hindrance := _hindrance(actor):
        narrator.say(f"This part is left out: {hindrance}.")
        return
    if not isinstance(actor.host, RealHost):
        raise TypeError(actor.host)
    narrator.say(
        f"{actor.name} runs the VM at once: its disk is read from the copy on the NAS, and filled "
        "meanwhile. The copy stays where it is until that is over. The network is cut off, for "
        "nobody knows whether the original runs. The guest of these VMs counts on its disk, and "
        f"had come to {number} when it was backed up."
    )
    with shared_place(actor.host) as folder, _thrown_away_at_worst(actor, name):
        begun = time.monotonic()
        actor.run("vmbackup-admin", "boot", name, "--to", str(folder))
        narrator.say(f"It runs, {time.monotonic() - begun:.0f} s after the command was given:")
        (facts,) = actor.ask("vmbackup-admin", "status")["running_from_copies"]
        guest = RealVm(actor.host, facts["uuid"], name)
        actor.run("VBoxManage", "list", "runningvms")
        actor.run("vmbackup-lock", "list")
        _let_it_count(guest)
        narrator.say("Filled and switched off, it becomes an ordinary VM by itself:")
        actor.run("VBoxManage", "controlvm", name, "poweroff")
        wait_until(lambda: not _begun(actor), f"{name} to be an ordinary VM", _LONGEST_SECONDS)
        actor.run("vmbackup-lock", "list")
        if (after := guest.counter()) <= number:
            raise DemoFailedError(f"{name} should have counted on from {number}, and has {after}")
        narrator.say(f"Its guest has counted on, from {number} to {after}.")
        actor.host.run("unregistervm", guest.uuid, "--delete")


def _hindrance(actor: "Actor") -> str:
    """Why no VM can run from a copy here; empty: it can."""
    if not isinstance(actor.host, RealHost):
        return "simulated hosts read no disks"
    try:
        places.require_fuse()
    except ConfigurationError as error:
        return error.message
    return ""


def _begun(actor: "Actor") -> bool:
    return bool(actor.ask("vmbackup-admin", "status")["running_from_copies"])


def _let_it_count(guest: RealVm) -> None:
    guest.serial.unlink(missing_ok=True)
    guest.host.run("controlvm", guest.uuid, "changeuartmode1", "file", str(guest.serial))
    wait_until(lambda: guest.beats() >= 2, f"the guest of {guest.name} to count", _LONGEST_SECONDS)


@contextmanager
def _thrown_away_at_worst(actor: "Actor", name: str) -> Iterator[None]:
    """Nothing serves or fills its disks any more afterwards, also if the demo is interrupted."""
    try:
        yield
    except BaseException:
        actor.quietly("vmbackup-admin", "boot", "--discard", name, "--yes")
        raise
