"""`backup --dry-run`: which VMs would be backed up now, how, and why; and why not the others."""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from shared.command_line import Invocation
from shared.copies import catalogue
from shared.copies.space_needed import human
from shared.host.errors import ExitCode, VmBackupError
from shared.output import pasteable, print_json, say
from shared.site import Site
from shared.state.records import VmRecord
from shared.virtualbox.inventory import Machine
from worker.backup import backup_order
from worker.backup.admission import Admission
from worker.backup.engine_choice import expected_engine
from worker.backup.looks import Looks
from worker.backup.method import why_clone
from worker.backup.paused import why_not_paused
from worker.backup.room import needed_on_nas, source_bytes

log: Final = logging.getLogger(__name__)

_METHODS: Final = {
    "defer": "left alone: it runs, and its policy is to wait until it stops",
    "savestate": "its state is saved, and it is started again",
    "shutdown": "it is shut down, and started again",
    "live": "live, from a snapshot",
    "pause": "paused for a moment, while its disks are cloned",
}


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be done with one VM. Bytes; None: not known. `reason`: why it is due.

    `engine` would export it, for `engine_reason`; empty: not known. `waits` says why nothing would
    be done now; empty: it would be backed up.
    """

    vm: str
    disks: int | None
    needs: int | None
    method: str
    reason: str
    waits: str = ""
    engine: str = ""
    engine_reason: str = ""


def plan(site: Site, only: str | None = None, *, now: bool = False) -> list[Planned]:
    """What `run` would do with each VM that waits, in order, and why not with those that run."""
    contents = site.database.head().contents
    if only is not None:
        only = backup_order.require_backup(site, contents, only)
        if now:
            site, contents = backup_order.as_wanted_now(site, contents, contents.vms[only])
    looks = Looks(site)
    admission = Admission(site, looks, forced=only is not None, read_only=True)
    found = []
    for record in backup_order.waiting(site, contents, only):
        waits = admission.verdict(record).reason
        if not waits and admission.left_alone(record):
            waits = _METHODS["defer"]
        found.append(_planned(site, looks, record, waits, wanted=now))
    found += [
        _planned(site, looks, contents.vms[key], _METHODS["defer"], wanted=False)
        for key in backup_order.deferred(site, contents)
        if only in (None, key)
    ]
    return found


def _planned(site: Site, looks: Looks, record: VmRecord, waits: str, *, wanted: bool) -> Planned:
    reason = _reason(record, wanted=wanted)
    try:
        machine = looks.recent(record.uuid)
        there = catalogue.read(site.directory(record), record.uuid)
    except VmBackupError as error:
        return Planned(record.key, None, None, "", reason, waits or error.message)
    if machine is None or not machine.accessible:
        why = machine.reason if machine else "it is not registered on this host any more"
        return Planned(record.key, None, None, "", reason, waits or f"it would fail: {why}")
    policy = site.policy(record)
    needs = needed_on_nas(machine, policy, there)
    planned = Planned(
        record.key, source_bytes(machine), needs, _method(site, record, machine), reason, waits
    )
    try:
        engine, why = expected_engine(policy, machine, site.clock)
    except VmBackupError as error:
        return replace(planned, waits=waits or f"it would fail: {error.message}")
    return replace(planned, engine=engine, engine_reason=why)


def _method(site: Site, record: VmRecord, machine: Machine) -> str:
    policy = site.policy(record)
    if machine.running:
        why = why_not_paused(site, policy, machine) if policy.running == "pause" else ""
        return f"{_METHODS['live']} (not paused: {why})" if why else _METHODS[policy.running]
    saved = machine.settings is not None and bool(machine.settings.state_file)
    if why := why_clone(record.name, policy, machine, saved=saved):
        return f"{_METHODS['live']} ({why})"
    return f"as it is: it is {'saved' if saved else 'off'}"


def _reason(record: VmRecord, *, wanted: bool) -> str:
    if wanted:
        return "it is wanted now"
    if record.last_copy is None:
        return "it has no copy yet"
    if record.failures:
        return f"{record.failures} backups failed since its last copy: {record.last_error}"
    return f"it was used since its last copy {record.last_copy.stamp}"


def print_plan(
    invocation: Invocation, only: str | None, *, now: bool, as_json: bool = False
) -> ExitCode:
    """Prints what would be done: a VM a line, and the room that there is."""
    site = invocation.site(reading=True)
    planned = plan(site, only, now=now)
    now_due = [each for each in planned if not each.waits]
    free, reserve = site.nas.free, site.configuration.nas.reserve
    if as_json:
        vms: list[dict[str, Any]] = [asdict(each) for each in planned]
        print_json(
            {"schema": 1, "dry_run": True, "vms": vms, "nas": {"free": free, "reserve": reserve}}
        )
        return ExitCode.DONE
    for each in planned:
        say(_line(each))
    if only is not None and not planned:
        contents = site.database.head().contents
        key = backup_order.require_backup(site, contents, only)
        say(pasteable(backup_order.why_not(site, contents, key)))
        return ExitCode.DONE
    if not now_due:
        says_why = pasteable("`vmbackup-admin status` says why each waits")
        log.warning("no VM would be backed up now: %s", says_why)
        return ExitCode.DONE
    needs = sum(each.needs or 0 for each in now_due)
    say(
        f"{len(now_due)} {'VM' if len(now_due) == 1 else 'VMs'} would be backed up: about "
        f"{human(needs)} at most; the NAS has "
        f"{human(free)} free, of which {human(reserve)} stay (nas.reserve)"
    )
    return ExitCode.DONE


def _line(planned: Planned) -> str:
    sizes = (
        f"disks {human(planned.disks)}, needs at most {human(planned.needs)} on the NAS; "
        if planned.disks is not None and planned.needs is not None
        else ""
    )
    if planned.waits:
        return f"{planned.vm}: not now: {planned.waits}; {sizes}{planned.reason}"
    by = f", by {planned.engine} ({planned.engine_reason})" if planned.engine else ""
    return f"{planned.vm}: {sizes}{planned.method}{by}; {planned.reason}"
