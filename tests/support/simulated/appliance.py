"""VBoxManage export, the client.

Checks, starts the export in a service process, shows its progress, cancels it when told to.

The file is written by a process of its own, as VBoxSVC does: it goes on to the end when the client
is killed.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass

from tests.support.simulated import disks, power, service
from tests.support.simulated.arguments import parse, required
from tests.support.simulated.errors import Reply, UsageError, VBoxError, failed_task
from tests.support.simulated.faults import Faults
from tests.support.simulated.machines import find
from tests.support.simulated.media import lock_state
from tests.support.simulated.ova import Plan, System
from tests.support.simulated.settings import machine_text
from tests.support.simulated.state import Host, Machine

_VALUES = ("--output", "--options", "--vsys", "--vmname", "--description")
_FLAGS = ("--manifest", "--ovf10", "--ovf20")
TITLE, HANDLER = "Appliance write failed", "handleExportAppliance"


@dataclass
class Started:
    """An export under way: its service process, and where that one reports."""

    process: int
    reports: int
    ignores_signals: bool
    machines: int


def begin(host: Host, words: list[str], faults: Faults) -> Started:
    """Checks the command and starts the service process. The caller holds the lock of the state.

    Raises `VBoxError`.
    """
    plan, machines = _plan(host, words)
    machine_faults = faults.of(machines[0].uuid, machines[0].name)
    if machine_faults.starts_before_export and not machines[0].runs:
        power.start(host, machines[0])
    for machine in machines:
        _refuse_locked(host, machine)
    _refuse_target(plan.target)
    reports, sender = os.pipe()
    process = os.fork()
    if process == 0:
        service.run(host.home, plan, machine_faults, sender)  # does not return
    os.close(sender)
    os.read(reports, 1)  # the service has said that it holds the disks
    return Started(process, reports, machine_faults.export_ignores_signals, len(machines))


def _plan(host: Host, words: list[str]) -> tuple[Plan, list[Machine]]:
    plain, options = parse(words, values=_VALUES, flags=_FLAGS)
    names = required(plain, 1)
    if "output" not in options:
        raise UsageError("Missing --output argument with export command.")
    machines = [find(host, name) for name in (plain or names)]
    target = os.path.abspath(options["output"])
    if not target.endswith((".ova", ".ovf")):
        text = "Appliance file must have .ovf or .ova extension"
        raise VBoxError(
            text, code="VBOX_E_FILE_ERROR", component="ApplianceWrap", context="Write(...)"
        )
    systems = []
    for machine in machines:
        chains = [host.chain(disk) for disk in machine.disks.values()]
        title = options.get("vmname", machine.name)
        systems.append(
            System(
                machine.name,
                title,
                machine_text(host, machine),
                machine.memory,
                list(machine.disks),
                chains,
                options.get("description", machine.description),
                dict(machine.kinds),
            )
        )
        _refuse_usb(machine)
        _refuse_long_name(machine)
    manifest = "manifest" in options or "manifest" in options.get("options", "").split(",")
    version = 2 if "ovf20" in options else 1
    return Plan(
        target, systems, version, digest=("", "SHA1", "SHA256")[version] if manifest else ""
    ), machines


def _refuse_usb(machine: Machine) -> None:
    filled = [slot for slot, image in machine.drives.items() if image]
    for slot in [*machine.disks, *filled]:
        controller, port, device = slot.rsplit("-", 2)
        if machine.kinds.get(controller, "").lower() == "usb":
            text = (
                f"Cannot handle medium attachment: storageBus is 6, channel is {port}, "
                f"device is {device}"
            )
            raise VBoxError(text, code="VBOX_E_NOT_SUPPORTED", context="ExportTo(pAppliance, ...)")


def _refuse_long_name(machine: Machine) -> None:
    """The disk is called after the machine, and a tar header holds 99 characters."""
    disk = f"{machine.name}-disk001.vmdk"
    if machine.disks and len(disk.encode()) > 99:
        text = f"Cannot attach disk '{disk}' -- file name too long"
        raise VBoxError(text, code="VBOX_E_NOT_SUPPORTED", context="ExportTo(pAppliance, ...)")


def _refuse_locked(host: Host, machine: Machine) -> None:
    handler = HANDLER
    for disk in machine.disks.values():
        for medium in host.chain(disk):
            disks.check_readable_for_task(medium, TITLE, handler)
        if machine.runs and len(host.chain(disk)) > 1:
            code = "VBOX_E_INVALID_OBJECT_STATE"
            text = (
                f"Code {code} (0x80BB0007) - Current object state prohibits operation "
                f"(extended info not available)"
            )
            error = failed_task(TITLE, text, code="", component="", handler=handler, word=code)
            raise error
        if lock_state(host, host.media[disk], set()) == "locked write":
            text = f"Medium '{host.media[disk].location}' is locked for writing by another task"
            raise failed_task(
                TITLE,
                text,
                code="VBOX_E_INVALID_OBJECT_STATE",
                component="MediumWrap",
                handler=handler,
            )


def _refuse_target(target: str) -> None:
    folder = os.path.dirname(target)
    if os.path.lexists(target):
        code, name = "VBOX_E_IPRT_ERROR", "VERR_ALREADY_EXISTS"
    elif not os.path.isdir(folder):
        code, name = "VBOX_E_OBJECT_NOT_FOUND", "VERR_FILE_NOT_FOUND"
    elif os.statvfs(folder).f_flag & os.ST_RDONLY:
        code, name = "VBOX_E_IPRT_ERROR", "VERR_WRITE_PROTECT"
    elif not os.access(folder, os.W_OK):
        code, name = "VBOX_E_IPRT_ERROR", "VERR_ACCESS_DENIED"
    else:
        return
    text = f"Failed to open '{target}' for writing ({name})"
    raise failed_task(TITLE, text, code=code, component="ApplianceWrap", handler=HANDLER)


def follow(started: Started) -> Reply:
    """Shows the progress until the export has ended; INT and TERM cancel it.

    Raises `VBoxError` if it failed.
    """

    def cancel(number: int, frame: object) -> None:
        if not started.ignores_signals:
            os.kill(started.process, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, cancel)
    with open(started.reports, encoding="utf-8") as reports:
        for line in reports:
            report = json.loads(line)
            if "percent" in report:
                sys.stderr.write(
                    "100%\n" if report["percent"] == 100 else f"{report['percent']}%..."
                )
                sys.stderr.flush()
            else:
                return _result(report, started)
    sys.stderr.write("\nProgress object failure: NS_ERROR_ABORT\n")
    text = "Code NS_ERROR_ABORT (0x80004004) - Operation aborted (extended info not available)"
    raise VBoxError(TITLE, text, context=f"RTEXITCODE {HANDLER}(HandlerArg*)")


def _result(report: dict[str, str], started: Started) -> Reply:
    done = Reply(f"Successfully exported {started.machines} machine(s).\n")
    if report["result"] == "done":
        return done
    if report["result"] == "lie":
        error = VBoxError(
            TITLE,
            report["text"],
            code="VBOX_E_FILE_ERROR",
            component="MediumWrap",
            status=0,
            said=done.stdout,
        )
        raise error
    taken = report["word"] == "VBOX_E_IPRT_ERROR"
    code, component = (
        ("VBOX_E_IPRT_ERROR", "ApplianceWrap") if taken else ("VBOX_E_FILE_ERROR", "MediumWrap")
    )
    error = failed_task(
        TITLE, report["text"], code=code, component=component, handler=HANDLER, word=report["word"]
    )
    error.lines[0] = report["word"]  # behind the percentages that have been shown
    raise error
