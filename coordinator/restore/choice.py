"""Which copy of a VM is meant: `latest`, `previous` or a stamp, and whether that is certain."""

from dataclasses import dataclass

from shared.copies import chronology
from shared.copies.catalogue import Copy
from shared.host.errors import CopyError
from shared.host.printable import quoted
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks import vm_copies


def choose(site: Site, record: VmRecord, which: str) -> Copy:
    """The copy that is meant: `latest` or `previous` of the good ones, or a stamp.

    Raises `CopyError` if there is none, `NasError`.
    """
    return look_for(site, record, which).copy


@dataclass(frozen=True, slots=True)
class ChosenCopy:
    """The copy that is meant.

    `doubt` says why it may be another one, or will hardly do; empty: it is that one.
    """

    copy: Copy
    doubt: str = ""


def look_for(site: Site, record: VmRecord, which: str) -> ChosenCopy:
    """Like `choose`, and whether the signs disagree about which is `latest` or `previous`."""
    found = [copy for copy, _ in vm_copies.copies(site, record)]
    good = chronology.oldest_first(copy for copy in found if copy.good)
    if which in ("latest", "previous"):
        position = 1 if which == "latest" else 2
        if len(good) < position:
            raise CopyError(
                f"{record.key} has {'no good copy' if not good else 'only one good copy'}",
                hint=_what_there_is(record, found),
            )
        return ChosenCopy(good[-position], _doubt(good[-position], good, which))
    copy = next((copy for copy in found if copy.stamp == which), None)
    if copy is None:
        raise CopyError(
            f"{record.key} has no copy {which!r}",
            hint=f"`vmbackup-admin copies {quoted(record.key)}` shows what there is",
        )
    return ChosenCopy(copy, f"{copy.stamp}: {copy.problem}" if copy.refused else "")


def _what_there_is(record: VmRecord, found: list[Copy]) -> str:
    refused = chronology.oldest_first(copy for copy in found if copy.refused)
    shown = f"`vmbackup-admin copies {quoted(record.key)}` shows what there is"
    if not refused:
        return shown
    return (
        f"{shown}; the disks of {refused[-1].stamp} are whole, although VirtualBox would not "
        f"import it: docs/restore.md says how to get at them"
    )


def _doubt(copy: Copy, good: list[Copy], which: str) -> str:
    rivals = chronology.rivals(copy, good)
    if not rivals:
        return ""
    return (
        f"it is not certain that {copy.stamp} is the {which} copy: number, time and order of "
        f"creation disagree about it and "
        f"{rivals[-1].stamp}; to take that one: --copy {rivals[-1].stamp}"
    )
