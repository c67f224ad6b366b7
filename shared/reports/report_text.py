"""A report in words: lines for a terminal and for messages. Pure."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from shared.copies.space_needed import human
from shared.host.clock import parse_timestamp
from shared.host.duration import spoken
from shared.notices.notice import Kind, Notice
from shared.reports.report import CopyTraffic, PeriodReport, VmNews
from shared.tasks.judgement import Level, Verdict

#: How many VMs to which nothing happened are named, and how many lines a message has.
_NAMED: Final = 12
_LINES: Final = 44
_KINDS: Final[dict[Level, Kind]] = {
    Level.OK: "success",
    Level.WARNING: "warning",
    Level.UNKNOWN: "warning",
    Level.CRITICAL: "failure",
}
_TITLES: Final = {
    Level.OK: "all is well",
    Level.WARNING: "something needs to be looked at",
    Level.UNKNOWN: "not everything is known",
    Level.CRITICAL: "something is wrong",
}


def summary(report: PeriodReport) -> str:
    """`3 backed up, 1 failed, 2 put off`."""
    counts = ", ".join(f"{number} {word}" for word, number in report.counts.items())
    return counts or "nothing was backed up"


def lines(report: PeriodReport) -> list[str]:
    """All of it, the worst first."""
    span = spoken((report.until - report.since).total_seconds())
    said = [
        f"Backups from {_minute(report.since)} to {_minute(report.until)} ({span})",
        f"{report.level.name}: {_TITLES[report.level]}. {_sentence(summary(report))}",
    ]
    if moved := moved_words(report.traffic):
        said.append(_sentence(moved))
    said.append(f"NAS: {report.nas.reason}.")
    said += [f"Host {_judged(host)}" for host in report.hosts if host.level != Level.OK]
    if report.unknown:
        said.append(f"Of {report.unknown} commits it is not known what happened.")
    for vm in report.vms:
        if not vm.is_quiet:
            said += ["", *of_vm(vm)]
    quiet = [vm.vm for vm in report.vms if vm.is_quiet]
    if quiet:
        more = f" and {len(quiet) - _NAMED} more" if len(quiet) > _NAMED else ""
        vms = "1 VM" if len(quiet) == 1 else f"{len(quiet)} VMs"
        said += [
            "",
            f"Nothing happened to {vms}, and all is well: {', '.join(quiet[:_NAMED])}{more}",
        ]
    return said


def of_vm(vm: VmNews) -> Iterator[str]:
    """One VM: how it stands, what happened, what is due."""
    if vm.verdict is None:
        yield f"{vm.vm}: its record is gone"
    else:
        host = f" ({vm.host})" if vm.host else ""
        yield f"{vm.vm}{host}: {vm.verdict.level.name}: {_reason(vm.verdict)}"
        for also in vm.verdict.also:
            yield f"    also {also.level.name}: {_reason(also)}"
        if vm.verdict.remedy and vm.verdict.level != Level.OK:
            yield f"    helps: {vm.verdict.remedy}"
    yield from (f"    {line}" for line in happened(vm))
    if moved := moved_words(vm.traffic):
        yield f"    {moved}"
    if vm.due:
        yield f"    next: {'; '.join(vm.due)}"


def happened(vm: VmNews) -> Iterator[str]:
    """What happened to a VM, each thing once: when last, and how often."""
    times = Counter(each.what for each in vm.told)
    last = {each.what: each.when for each in vm.told}
    for what, number in times.items():
        often = f" ({number} times)" if number > 1 else ""
        yield f"{_stamp(last[what])}  {what}{often}"


def moved_words(traffic: CopyTraffic) -> str:
    """`2.0 GiB read, 300 MiB sent, 700 MiB copied by the NAS itself`; empty if nothing was."""
    parts = [f"{human(traffic.read)} read"] if traffic.read else []
    parts += [f"{human(traffic.sent)} sent"] if traffic.sent else []
    parts += [f"{human(traffic.copied)} copied by the NAS itself"] if traffic.copied else []
    return ", ".join(parts)


def notice(report: PeriodReport, node: str) -> Notice:
    """The report as a message, as long as a message may be. `node` sends it."""
    said = lines(report)
    if len(said) > _LINES:
        since = f"{report.since.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
        left = len(said) - _LINES
        said = [*said[:_LINES], f"… {left} lines more: vmbackup-admin report --since {since}"]
    footer = f"Sent by {node}. `vmbackup-admin check` says how things stand now."
    title = f"vmbackup: {_TITLES[report.level]}: {summary(report)}"
    return Notice.of(title, [*said, "", footer], _KINDS[report.level])


def _sentence(text: str) -> str:
    """The text as a sentence; units and names in it stay as they are."""
    return f"{text[:1].upper()}{text[1:]}."


def _judged(verdict: Verdict) -> str:
    helps = f" (helps: {verdict.remedy})" if verdict.remedy else ""
    return f"{verdict.subject}: {verdict.level.name}: {_reason(verdict)}{helps}"


def _reason(verdict: Verdict) -> str:
    return verdict.reason + ("" if verdict.seconds is None else f" ({spoken(verdict.seconds)})")


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%MZ}"


def _stamp(text: str) -> str:
    try:
        return _minute(parse_timestamp(text))
    except ValueError:
        return text
