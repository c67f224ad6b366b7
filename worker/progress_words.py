"""What is said of running backups, and of those that are over, in words."""

from collections.abc import Mapping
from typing import Any, Final

from shared.copies.space_needed import human
from shared.host.duration import spoken
from shared.state.contents import Contents
from worker.report import Report

#: What the phases of a backup are, for people.
_PHASES: Final[Mapping[str, str]] = {
    "backup": "prepares",
    "savestate": "saves the VM",
    "shutdown": "shuts the VM down",
    "live": "prepares a snapshot",
    "pause": "clones its disks",
    "snapshot": "makes a snapshot",
    "export": "exports",
    "side files": "keeps side files",
    "check": "checks",
    "try to import": "tries to import",
    "publish": "publishes",
}


def words(look: Mapping[str, Any]) -> str:
    """`exports 42 %, 1.5 GiB, 110 MiB/s, 20 min left`."""
    phase = str(look.get("phase") or "")
    parts = [_PHASES.get(phase, phase)]
    if (percent := look.get("percent")) is not None:
        parts[0] += f" {percent:.0f} %"
    if look.get("bytes_done"):
        parts.append(human(look["bytes_done"]))
    if look.get("rate"):
        parts.append(f"{human(look['rate'])}/s")
    if look.get("seconds_left") is not None:
        parts.append(f"{spoken(look['seconds_left'])} left")
    return ", ".join(parts)


def outcome(report: Report, vm: str) -> str:
    """What became of the backup of a VM, in a word or two."""
    if vm in report.done:
        return "copied"
    if vm in report.failed:
        return "failed"
    if vm in report.deferred:
        return "runs: left for later"
    return "waits" if vm in report.postponed else "not copied"


def summary(report: Report, contents: Contents, seconds: float) -> str:
    """`3 copied, 1.5 GiB in 12 s; 1 failed; 2 wait because they run`."""
    copies = [contents.vms[key].last_copy for key in report.done if key in contents.vms]
    size = sum(copy.size for copy in copies if copy)
    done = f"{len(report.done)} copied, {human(size)} in {spoken(seconds)}"
    parts = [done if report.done else "no VM was copied"]
    if failed := len(set(report.failed)):
        parts.append(f"{failed} failed")
    if runs := len(set(report.deferred)):
        parts.append("1 waits because it runs" if runs == 1 else f"{runs} wait because they run")
    for reason, number in _reasons(report, contents).items():
        parts.append(f"{number} {'wait' if number > 1 else 'waits'}: {reason}")
    return "; ".join(parts)


def _reasons(report: Report, contents: Contents) -> dict[str, int]:
    counted: dict[str, int] = {}
    for key in sorted(set(report.postponed)):
        record = contents.vms.get(key)
        reason = (record.waiting if record else "").removeprefix("waits ") or "for a later tick"
        counted[reason] = counted.get(reason, 0) + 1
    return counted
