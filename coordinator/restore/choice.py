"""Which copy of a VM is meant: `latest`, `previous` or a stamp, and whether that is certain."""

from collections.abc import Iterator
from dataclasses import dataclass

from shared.copies import chronology
from shared.copies.catalogue import Copy
from shared.host.errors import CopyError, NotInCopyError
from shared.host.printable import quoted
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks import vm_copies


def choose(site: Site, record: VmRecord, which: str) -> Copy:
    """The copy that is meant: `latest` or `previous` of the good ones, or a stamp.

    Raises `NotInCopyError` if there is none of that stamp, `CopyError` if there is no good one,
    `NasError`.
    """
    return look_for(site, record, which).copy


@dataclass(frozen=True, slots=True)
class ChosenCopy:
    """The copy that is meant.

    `doubt` says why it may be another one, or will hardly do; empty: it is that one.
    """

    copy: Copy
    doubt: str = ""


def look_for(site: Site, record: VmRecord, which: str, *, option: str = "--copy ") -> ChosenCopy:
    """Like `choose`, and whether the signs disagree about which is `latest` or `previous`.

    `option` is what stands before a stamp in the command that asks.
    """
    found = vm_copies.in_all_places(site, record)
    good = chronology.oldest_first(copy for copy in found if copy.good)
    if which in ("latest", "previous"):
        position = 1 if which == "latest" else 2
        if len(good) < position:
            raise CopyError(
                f"{record.key} has {'no good copy' if not good else 'only one good copy'}",
                hint=_what_there_is(record, found),
            )
        chosen = good[-position]
        doubts = [_doubt(chosen, good, which, option)]
        if which == "latest":
            doubts.append(_newer(record, chosen, found))
        return ChosenCopy(chosen, "; ".join(filter(None, doubts)))
    copy = next((copy for copy in found if copy.stamp == which), None)
    if copy is None:
        raise NotInCopyError(
            f"{record.key} has no copy {which!r}",
            hint=f"`vmbackup-admin copies {quoted(record.key)}` shows what there is",
        )
    return ChosenCopy(copy, f"{copy.stamp}: {copy.problem}" if copy.refused else "")


def unread(record: VmRecord, copy: Copy, *, compared: bool) -> Iterator[str]:
    """What is to be said of a copy that does not count, and where nobody compares what is read."""
    tells = "tells whether it is damaged"
    verify = f"`vmbackup-admin verify {quoted(record.key)}`"
    if not (copy.good or copy.refused):  # of the latter `look_for` says it
        yield f"{copy.stamp} does not count: {copy.problem}; {verify} {tells}"
    elif not (compared or copy.read_in_full):
        yield f"{copy.stamp} was not read in full yet; {verify} does that, and {tells}"


def _what_there_is(record: VmRecord, found: list[Copy]) -> str:
    refused = chronology.oldest_first(copy for copy in found if copy.refused)
    shown = f"`vmbackup-admin copies {quoted(record.key)}` shows what there is"
    if not refused:
        return shown
    return (
        f"{shown}; the disks of {refused[-1].stamp} are whole, although VirtualBox would not "
        f"import it: docs/restore.md says how to get at them"
    )


def _newer(record: VmRecord, chosen: Copy, found: list[Copy]) -> str:
    """That a newer copy than the chosen one does not count, or is not there any more."""
    newest = chronology.oldest_first(copy for copy in found if copy.ours)[-1]
    last = record.last_copy
    if newest.stamp != chosen.stamp:
        what = f"the newest copy {newest.stamp} does not count: {newest.problem}"
    elif last is not None and last.stamp not in {copy.stamp for copy in found}:
        what = f"the newest copy {last.stamp} is not there"
    else:
        return ""
    return f"{what}. Taken is {chosen.stamp}, the newest good one"


def _doubt(copy: Copy, good: list[Copy], which: str, option: str) -> str:
    rivals = chronology.rivals(copy, good)
    if not rivals:
        return ""
    return (
        f"it is not certain that {copy.stamp} is the {which} copy: number, time and order of "
        f"creation disagree about it and "
        f"{rivals[-1].stamp}; to take that one: {option}{rivals[-1].stamp}"
    )
