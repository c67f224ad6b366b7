"""What is said of copies: their state, and what is missing or strange beside them."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from coordinator import text
from shared.copies import catalogue
from shared.host.errors import ExitCode, VmBackupError
from shared.state.records import VmRecord
from shared.state.states import State
from shared.tasks.vm_copies import require_archived

if TYPE_CHECKING:
    from shared.site import Site


def incomplete(unseen: Sequence[str], records: Sequence[VmRecord]) -> ExitCode:
    """The exit code of a list of copies.

    `NAS` if it lacks copies that were asked for, because their place could not be looked at.
    """
    return (
        ExitCode.NAS
        if unseen and any(record.status == State.ARCHIVED for record in records)
        else ExitCode.DONE
    )


def state(row: Mapping[str, Any]) -> str:
    """What is to be said of a copy: what is wrong with it, or that it is good."""
    return (
        str(row["problem"])
        or "good"
        + ", not read in full" * (row["read_in_full"] is False)
        + ", suspect" * bool(row["suspect"])
        + ", pinned" * row["pinned"]
        + "".join(f", held by {hold['name']}" for hold in row["holds"])
        + ", order unknown" * row["order_unknown"]
    )


def rehearsal(row: Mapping[str, Any], now: datetime) -> str:
    """How the last trial restore of a copy went, and how long ago; empty if there was none."""
    last = row["rehearsed"]
    if last is None:
        return ""
    return (
        f"{last['result']}, "
        f"{'booted, ' * last['booted']}{text.duration(text.seconds_since(last['time'], now))} ago"
    )


def rehearsal_lines(last: Mapping[str, Any]) -> Iterator[str]:
    """All that is noted of the last trial restore of a copy."""
    said = f"{last['result']} ({last['observed']})" if last["observed"] else last["result"]
    yield f"rehearsed {text.local(last['time'])} on {last['node']}: {said}"
    if last["imported_because"]:
        yield f"not from the copy alone: {last['imported_because']}"


def missing(site: "Site", records: Sequence[VmRecord]) -> Iterator[str]:
    """Which archived VMs with copies have none in the archive, and why that may be."""
    for record in records:
        try:
            require_archived(site, record)
        except VmBackupError as error:
            yield f"{error.message} ({error.hint})"


def strange(site: "Site", record: VmRecord) -> Iterator[str]:
    """What of the files beside the copies people should know.

    Names like a copy's that are none of ours.
    """
    for directory, _ in site.all_directories(record)[0]:
        for name in catalogue.read(directory, record.uuid).strange:
            yield (
                f"{record.key}: {directory / name} is named like a copy, but has no sidecar, "
                f"or a number that no copy can have"
            )
