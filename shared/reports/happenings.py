"""What happened, in words: records before and after a commit compared. Pure.

A commit says how records changed. People ask what became of their VMs: this is the one place where
the first is turned into the second, for `log` and for reports.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from shared.copies.space_needed import human
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import sightings
from shared.state.states import State
from shared.state.store.header import Header
from shared.tasks import commit_reasons

#: What was done to a VM for its backup, in words.
_TOUCHED: Final = {
    "savestate": "saved for its backup",
    "shutdown": "shut down for its backup",
    "live": "a snapshot of it was made for its backup",
    "pause": "paused for a moment for its backup",
}
_BEGUN: Final = {"archive": "archived", "activate": "taken back into the backups"}


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened. `when` is by the clock of the host that noted it.

    `vm` is the key of the VM, empty if it is about none; `kind` a word for programs, `what` the
    words for people; `copy` the stamp of the copy that it is about, if it is about one.
    """

    when: str
    host: str
    vm: str
    kind: str
    what: str
    copy: str = ""
    generation: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `log --json` shows it."""
        return {
            name: getattr(self, name)
            for name in ("when", "host", "vm", "kind", "what", "copy", "generation")
        }


def happenings(before: Contents, after: Contents, header: Header) -> list[Happening]:
    """What happened in the commit `header`: the records that it changed, before and after it."""

    def happening(vm: str, kind: str, what: str, copy: str = "") -> Happening:
        return Happening(
            header.committed, header.node, vm, kind, what, copy, generation=header.generation
        )

    found = [
        happening(key, kind, what, copy)
        for key, old, new in _changed(before, after)
        for kind, what, copy in _of_vm(old, new, header.reason)
    ]
    found += [
        happening("", "died", f"the {row.worker} worker {row.id} showed no life and was ended")
        for row in after.sessions.values()
        if row.state == "expired" and _was_live(before, row.id)
    ]
    return found


def _was_live(contents: Contents, session: str) -> bool:
    row = contents.sessions.get(session)
    return row is not None and row.state == "live"


def _changed(
    before: Contents, after: Contents
) -> Iterator[tuple[str, VmRecord | None, VmRecord | None]]:
    """The VMs whose records differ. One that was renamed is one VM: it is known by its UUID."""
    keys = {record.uuid: key for key, record in before.vms.items() if record.uuid}
    seen = set()
    for key, new in sorted(after.vms.items()):
        old = before.vms.get(key) if not new.uuid else before.vms.get(keys.get(new.uuid, key))
        seen.add(old.key if old else key)
        if old != new and not new.taken_in_by:
            yield key, old, new
    for key, gone in sorted(before.vms.items()):
        if key not in seen and not gone.taken_in_by:
            yield key, gone, None


def _of_vm(
    old: VmRecord | None, new: VmRecord | None, reason: str
) -> Iterator[tuple[str, str, str]]:
    if new is None:
        yield "forgotten", "its record was deleted; its copies stay", ""
        return
    if old is None:
        yield "found", f"found on {new.node}" if new.node else "found", ""
        return
    for says in _SAYS:
        yield from says(old, new, reason)


def _names(old: VmRecord, new: VmRecord, _: str) -> Iterator[tuple[str, str, str]]:
    if old.key != new.key:
        yield "renamed", f"was called {old.key} before", ""
    if old.node != new.node:
        yield "moved", f"moved from {old.node or 'nowhere'} to {new.node}", ""
    if (old.missing_since is None) != (new.missing_since is None):
        gone = new.missing_since is not None
        what = "its host does not have it any more" if gone else "its host has it again"
        yield ("gone" if gone else "back"), what, ""
    if old.left_out != new.left_out:
        rule = new.left_out
        what = f"left out of backups: {rule}" if rule else "not left out of backups any more"
        yield "left-out", what, ""


def _use(old: VmRecord, new: VmRecord, _: str) -> Iterator[tuple[str, str, str]]:
    """What its user did with it."""
    moved = (old.status, new.status)
    if new.status == State.RUNNING and old.status not in (State.RUNNING, State.BACKUP_IN_PROGRESS):
        yield "started", "runs", ""
    elif moved == (State.BACKUP_IN_PROGRESS, State.RUNNING) and old.backed_up == new.backed_up:
        yield "skipped", "not backed up: it was found running", ""
    elif moved == (State.RUNNING, State.BACKUP_NECESSARY):
        yield "used", "was used: its backup is due", ""
    elif moved == (State.CLEAN, State.BACKUP_NECESSARY) and not _lost(old, new):
        yield "used", "differs from its last copy: its backup is due", ""
    elif moved == (State.NEW, State.BACKUP_NECESSARY):
        yield "used", "its first backup is due", ""


def _backup(old: VmRecord, new: VmRecord, _: str) -> Iterator[tuple[str, str, str]]:
    began = new.claim is not None and (old.claim is None or old.claim.number != new.claim.number)
    if began and new.claim is not None and new.claim.purpose == "backup":
        yield "began", "its backup began", ""
    if new.power is not None and old.power is None:
        yield "touched", _TOUCHED[new.power.method], ""
    if new.power is None and old.power is not None and new.power_left is None:
        yield "put-back", "as it was found before its backup", ""
    if new.backed_up and new.backed_up != old.backed_up and new.last_copy is not None:
        copy = new.last_copy
        yield "copied", f"backed up: copy {copy.stamp}, {human(copy.size)}", copy.stamp
    elif new.last_error and (new.last_error, new.last_error_at) != (
        old.last_error,
        old.last_error_at,
    ):
        if sightings.is_unusable(new):
            yield "unusable", new.last_error, ""
        elif new.failures > old.failures:
            yield "failed", f"backup failed: {new.last_error}", ""
        else:
            yield "interrupted", f"backup did not end: {new.last_error}", ""
    if new.waiting and new.waiting != old.waiting:
        yield "skipped", f"not backed up: it {new.waiting}", ""


def _copies(old: VmRecord, new: VmRecord, reason: str) -> Iterator[tuple[str, str, str]]:
    if old.claim is not None and new.claim is None:
        if read := commit_reasons.verification(reason, new.key):
            good = read[1] == "good"
            what = "read in full, and good" if good else f"damaged: {read[1]}"
            yield ("verified" if good else "damaged"), f"copy {read[0]} {what}", read[0]
        if tried := commit_reasons.rehearsal(reason, new.key):
            good = tried[1] == "good"
            what = "comes back" if good else f"does not come back: {tried[1]}"
            kind = "rehearsed" if good else "unrestorable"
            yield kind, f"rehearsed: copy {tried[0]} {what}", tried[0]
        removed = commit_reasons.removals(reason, new.key)
        for stamp in removed:
            yield "removed", f"copy {stamp} removed", stamp
    else:
        read, removed = None, []
    if began_to_pin := commit_reasons.pinning(reason, new.key) if new.claim else None:
        word, stamp = began_to_pin
        yield word, f"copy {stamp} {word}ned", stamp
    for stamp in sorted(set(new.damaged) - {*old.damaged, read[0] if read else ""}):
        yield "damaged", f"copy {stamp} is damaged", stamp
    if _lost(old, new) and old.last_copy is not None and old.last_copy.stamp not in removed:
        stamp = old.last_copy.stamp
        if stamp in new.damaged or new.backed_up:  # it lies there, or another came to be the newest
            yield "lost", f"copy {stamp} does not count any more", stamp
        else:
            yield "vanished", f"copy {stamp} is gone", stamp


def _restorations(old: VmRecord, new: VmRecord, _: str) -> Iterator[tuple[str, str, str]]:
    """What became of its copies as VMs."""
    if new.restored is not None and new.restored != old.restored:
        made = new.restored
        what = f"copy {made.stamp} restored on {made.node} as {made.name}"
        yield "restored", what, made.stamp
    if new.restored is None and old.restored is not None:
        stamp = old.restored.stamp
        yield "undone", f"what it had before it was taken back to {stamp} is back", stamp


def _holds(old: VmRecord, new: VmRecord, _: str) -> Iterator[tuple[str, str, str]]:
    """What runs from its copies."""
    before = {(hold.title, hold.stamp) for hold in old.holds if not hold.ended}
    after = {(hold.title, hold.stamp) for hold in new.holds if not hold.ended}
    for title, stamp in sorted(after - before):
        yield "held", f"{title} runs from copy {stamp}, which stays meanwhile", stamp
    for title, stamp in sorted(before - after):
        yield "let-go", f"{title} does not need copy {stamp} any more", stamp


def _archive(old: VmRecord, new: VmRecord, _: str) -> Iterator[tuple[str, str, str]]:
    if new.moving is not None and new.moving != old.moving:
        yield new.moving, _BEGUN[new.moving], ""
    elif (State.ARCHIVED in (old.status, new.status)) and old.status != new.status:
        kind = "archive" if new.status == State.ARCHIVED else "activate"
        yield kind, _BEGUN[kind], ""
    if old.moving is not None and new.moving is None:
        yield "in-place", "its copies are in their place", ""


def _lost(old: VmRecord, new: VmRecord) -> bool:
    """Whether what counted as the newest copy does not any more, and no newer one came."""
    if old.last_copy is None or (old.backed_up != new.backed_up and new.backed_up):
        return False
    return new.last_copy is None or new.last_copy.stamp != old.last_copy.stamp


_SAYS: Final[tuple[Callable[[VmRecord, VmRecord, str], Iterator[tuple[str, str, str]]], ...]] = (
    _names,
    _use,
    _backup,
    _copies,
    _restorations,
    _holds,
    _archive,
)
