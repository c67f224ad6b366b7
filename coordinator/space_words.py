"""What copies take on the NAS, as people and programs read it."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from coordinator import text
from shared.host.clock import timestamp
from shared.output import say
from shared.reports.space_growth import ENOUGH_DAYS, full_on, per_host

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.reports.space_growth import Cost, Growth, VmSpace, WatchedSpace
    from shared.site import Site


def print_vms(
    site: "Site", spaces: "Sequence[VmSpace]", costs: "Mapping[str, Cost]", changes: str
) -> None:
    """A table of VMs, the sums, and what other rules (`changes`, in words) would cost."""
    week = site.clock.now() - timedelta(days=7)
    rows = [
        [
            vm.vm,
            vm.host,
            str(len(vm.copies)),
            text.size(vm.size),
            _between(vm.least, vm.most),
            text.size(vm.made_since(week)),
            text.size(vm.archived) if vm.archived else "",
            _more(costs[vm.vm]) if vm.vm in costs else "",
        ]
        for vm in spaces
    ]
    headers = ["VM", "HOST", "COPIES", "SIZE", "TAKEN", "LAST WEEK", "ARCHIVED", "WOULD BE"]
    text.print_table(headers, rows)
    say()
    _print_totals(spaces)
    if changes:
        total = sum(cost.size for cost in costs.values())
        said = f"With {changes} they would in the end take {_signed(total)}"
        assumed = sum(cost.assumed for cost in costs.values())
        unsure = (
            f"; of {assumed} VMs too few copies are there to tell how often they are backed up: "
            "once a day is assumed"
            if assumed
            else ""
        )
        text.print_lines([f"{said}{unsure}."])


def _print_totals(spaces: "Sequence[VmSpace]") -> None:
    for host, vms, copies, size, _ in per_host(spaces):
        mine = [vm for vm in spaces if vm.host == host]
        taken = _between(sum(vm.least for vm in mine), sum(vm.most for vm in mine))
        said = f"{text.counted(copies, 'copy', 'copies')} of {text.counted(vms, 'VM')}, "
        said += f"{text.size(size)}, taken {taken}"
        text.print_lines([f"{host or 'no host'}: {said}"])
    least, most = sum(vm.least for vm in spaces), sum(vm.most for vm in spaces)
    copies = sum(len(vm.copies) for vm in spaces)
    archived = sum(vm.archived for vm in spaces)
    lines = [
        f"Together {copies} copies, {text.size(sum(vm.size for vm in spaces))}, "
        f"taken {_between(least, most)}"
        + (f", {text.size(archived)} of them in the archive" if archived else "")
        + "."
    ]
    if least != most:
        lines.append(
            "Copies share blocks, and the NAS does not tell how many of them: at least the first "
            "figure is taken, if it shared all that it copied by itself, at most the second one."
        )
    text.print_lines(lines)


def forecast(site: "Site", growth: "Growth | None", seen: "WatchedSpace", more: int) -> list[str]:
    """How full the NAS is, and when it will be; `more` are bytes that other rules would cost."""
    nas, reserve, now = site.nas, site.configuration.nas.reserve, site.clock.now()
    lines = [
        (
            f"NAS: {text.size(nas.free)} of {text.size(nas.total)} free; no backup begins with "
            f"less than {text.size(reserve)} (nas.reserve)."
        )
    ]
    if growth is None:
        return [
            *lines,
            (
                f"When it is full is not known: there is too little history ({len(seen.looks)} of "
                f"at least {ENOUGH_DAYS:.0f} daily notes of this host's `database` worker"
                f"{seen.words})."
            ),
        ]
    per_week = _signed(round(growth.per_day * 7))
    since = f"{growth.looks} looks in {growth.days:.0f} days{seen.words}"
    full = full_on(nas.free, reserve, growth.per_day, now)
    when = f"full on about {full}" if full else "not full within two years, if that goes on"
    lines.append(f"It fills by {per_week} a week ({since}): {when}.")
    if more and growth.per_day > 0:
        then = full_on(nas.free - more, reserve, growth.per_day, now)
        lines.append(
            f"With those rules: full on about {then}."
            if then
            else "With those rules, too, it would not be full within two years."
        )
    return lines


def _between(least: int, most: int) -> str:
    return text.size(most) if least == most else f"{text.size(least)} to {text.size(most)}"


def _signed(count: int) -> str:
    return f"{'-' if count < 0 else '+'}{text.size(abs(count))}"


def _more(cost: "Cost") -> str:
    copies = f"{cost.copies:+d} {'copy' if abs(cost.copies) == 1 else 'copies'}"
    return f"{copies}, {_signed(cost.size)}" + (" (assumed)" if cost.assumed else "")


def document(
    site: "Site",
    spaces: "Sequence[VmSpace]",
    growth: "Growth | None",
    seen: "WatchedSpace",
    costs: "Mapping[str, Cost]",
) -> dict[str, Any]:
    """As `space --json` shows it."""
    nas, reserve, now = site.nas, site.configuration.nas.reserve, site.clock.now()
    full = full_on(nas.free, reserve, growth.per_day, now) if growth else None
    week = now - timedelta(days=7)
    return {
        "schema": 1,
        "nas": {"total": nas.total, "free": nas.free, "reserve": reserve},
        "growth": {
            "bytes_a_day": round(growth.per_day),
            "looks": growth.looks,
            "days": round(growth.days, 1),
            "full_on": full.isoformat() if full else None,
        }
        if growth
        else None,
        "days_noted": len(seen.looks),
        "size_changed": timestamp(seen.changed) if seen.changed else None,
        "vms": [
            {
                "vm": vm.vm,
                "host": vm.host,
                "copies": len(vm.copies),
                "size": vm.size,
                "taken": vm.most if vm.least == vm.most else None,
                "taken_least": vm.least,
                "taken_most": vm.most,
                "last_week": vm.made_since(week),
                "archived": vm.archived,
                "other_files": vm.other,
                "would_be": {
                    "copies": costs[vm.vm].copies,
                    "bytes": costs[vm.vm].size,
                    "every_days": round(costs[vm.vm].every_days, 2),
                    "assumed": costs[vm.vm].assumed,
                }
                if vm.vm in costs
                else None,
            }
            for vm in spaces
        ],
    }
