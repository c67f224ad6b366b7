"""Which engine exports each VM of this host, and why."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from coordinator.doctor.patience import ANSWER_SECONDS
from coordinator.doctor.result import Check
from shared.export.eligibility import check_eligibility
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.pausing import folder_of_clone
from shared.frozen.reflink import require_reflinks
from shared.host.clock import Clock
from shared.host.configuration import Configuration, decide
from shared.host.configuration.backup_rule import UNFINISHED
from shared.host.errors import VBoxManageError
from shared.host.processes import Runner
from shared.ova.compression import best_codec, slowness
from shared.tasks import boot_note
from shared.virtualbox import settings
from shared.virtualbox.inventory import Machine, take_inventory
from shared.virtualbox.scratch import is_scratch
from shared.virtualbox.vboxmanage import VBoxManage

_NAME: Final = "engines"


def examine(
    configuration: Configuration, runner: Runner, clock: Clock, environment: Mapping[str, str]
) -> Iterator[Check]:
    """One line for all VMs that the parallel engine exports, one for each other VM.

    Opens the disks of all VMs for a moment.
    """
    configured = configuration.virtualbox
    vboxmanage = VBoxManage(
        configured.vboxmanage,
        runner,
        min(configured.timeout_seconds, ANSWER_SECONDS),
        clock=clock,
    )
    try:
        machines = take_inventory(
            vboxmanage, settings.home(configured.home, environment), clock.sleep
        )
    except VBoxManageError:
        return  # the checks of VirtualBox say so
    # the disks of these come from a server, which may hang
    booted = boot_note.unfinished(configuration.host.state_directory, machines.values())
    parallel = []
    for machine in sorted(machines.values(), key=lambda machine: machine.name or machine.uuid):
        if not machine.accessible or is_scratch(machine):
            continue
        if machine.uuid in booted:
            yield Check(_NAME, "ok", f"{_called(machine)} is left out of backups: {UNFINISHED}")
            continue
        check = _examine(configuration, machine, clock)
        if check is None:
            parallel.append(machine)
        else:
            yield check
    if parallel:
        names = ", ".join(map(_called, parallel))
        yield Check(_NAME, "ok", f"the parallel engine ({best_codec().name}) exports {names}")
        yield from _examine_codec()
        yield from _examine_clones(configuration, parallel)


def _called(machine: Machine) -> str:
    return machine.name or machine.uuid


def _examine_clones(configuration: Configuration, machines: Iterable[Machine]) -> Iterator[Check]:
    """Names those whose disks cannot be cloned, though only what changed of them is to be read."""
    found = dict[str, list[str]]()
    for machine in machines:
        groups = machine.settings.groups if machine.settings else ()
        if configuration.policy_for(_called(machine), groups).changed != "auto":
            continue
        home = Path(machine.settings_file).parent
        for image in machine.images:
            try:
                disk = Path(image.location)
                require_reflinks(disk, folder_of_clone(disk, home, "x").parent)
            except (NotFrozenError, OSError) as error:
                found.setdefault(str(error), []).append(_called(machine))
                break
    for reason, names in found.items():
        yield Check(
            'changed = "auto"',
            "ok",
            f"makes no clones for {', '.join(names)}, of which each backup reads all while they "
            f"are locked, and sends what changed if the NAS copies by itself: {reason} (XFS with "
            f"reflinks and btrfs do)",
        )


def _examine(configuration: Configuration, machine: Machine, clock: Clock) -> Check | None:
    """None if the parallel engine exports it.

    A VM that runs is looked at as it is now; its backup looks again.
    """
    name, settings = machine.name or machine.uuid, machine.settings
    groups, wish = (settings.groups, settings.wish) if settings else ((), "")
    if (said := decide(configuration, name, groups, wish)).left_out:
        return Check(_NAME, "ok", f"{name} is left out of backups: {said.rule}")
    wanted = configuration.policy_for(name, groups).engine
    if wanted == "vboxmanage":
        return Check(_NAME, "ok", f'VBoxManage exports {name}: engine = "vboxmanage"')
    reason = check_eligibility(machine, clock).reason
    if not reason:
        return None
    if wanted == "parallel":
        hint = 'engine = "auto" lets VBoxManage export it'
        return Check(
            _NAME,
            "fail",
            f'{name} is not exported: engine = "parallel", and that cannot: {reason}',
            hint,
        )
    return Check(
        _NAME, "ok", f"VBoxManage exports {name}, because the parallel engine cannot: {reason}"
    )


def _examine_codec() -> Iterator[Check]:
    if missing := slowness(best_codec().name):
        seen, _, hint = missing.partition(": ")
        yield Check(_NAME, "warn", f"it {seen}", hint)
