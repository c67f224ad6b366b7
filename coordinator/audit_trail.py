"""The audit trail: what each commit changed, read from the generations.

One that is damaged or gone is shown as such.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.reports.happenings import Happening, happenings
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.store.history import Committed, walk


@dataclass(frozen=True, slots=True)
class Wanted:
    """The VM of which somebody wants to know: also what it was called before."""

    key: str
    uuid: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """What stands in its records, as JSON; in those of some others as well."""
        texts = {"key": self.key, "uuid": self.uuid} if self.uuid else {"key": self.key}
        return tuple(
            f'"{name}":{json.dumps(value, ensure_ascii=False)}' for name, value in texts.items()
        )

    def of(self, contents: Contents) -> VmRecord | None:
        """Its record among those of a commit."""
        for record in contents.vms.values():
            if self.uuid and record.uuid == self.uuid:
                return record
        found = contents.vms.get(self.key)
        return None if found and self.uuid and found.uuid else found


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One generation. `problem` says why nothing else is known of it.

    `changes` what became of VMs, in words; `events` the same as people ask for it.
    """

    generation: int
    committed: str = ""
    node: str = ""
    session: str = ""
    reason: str = ""
    problem: str = ""
    changes: tuple[str, ...] = ()
    events: tuple[Happening, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `log --json` shows it."""
        document = {
            name: getattr(self, name)
            for name in ("generation", "committed", "node", "session", "reason")
        }
        return {**document, "problem": self.problem or None, "changes": list(self.changes)}


def commits(
    root: Path, vm: Wanted | None = None, since: datetime | None = None
) -> Iterator[LogEntry]:
    """The commits since a moment (that changed `vm`, if given), newest first.

    Those that cannot be read are among them: they may have changed it. Raises
    `NoDatabaseError`, `NasError`.
    """
    for found in walk(root, naming=vm.texts if vm else (), since=since):
        if vm is None or found.header is None or vm.of(found.before) or vm.of(found.after):
            yield _commit(found, vm)


def _commit(found: Committed, vm: Wanted | None) -> LogEntry:
    header = found.header
    if header is None:
        what = f"it is not known what happened: commit {found.number}: {found.problem}"
        unknown = Happening("", "", "", "unknown", what, generation=found.number)
        return LogEntry(found.number, problem=found.problem, events=(unknown,))
    events = happenings(found.before, found.after, header)
    if vm is not None:
        keys = {record.key for each in (found.before, found.after) if (record := vm.of(each))}
        events = [event for event in events if event.vm in keys]
    return LogEntry(
        found.number,
        header.committed,
        header.node,
        header.session,
        header.reason,
        changes=tuple(_changes(found.before, found.after)),
        events=tuple(events),
    )


def _changes(before: Contents, after: Contents) -> Iterator[str]:
    for key in sorted({*before.vms, *after.vms}):
        old, new = before.vms.get(key), after.vms.get(key)
        if old == new:
            continue
        if old is None or new is None:
            yield f"{key} {'new' if old is None else 'gone'}"
        else:
            yield f"{key} {_difference(old, new)}"
    expired = [
        row.id
        for row in after.sessions.values()
        if row.state == "expired" and _was_live(before, row.id)
    ]
    yield from (f"session {identifier} expired" for identifier in sorted(expired))


def _difference(old: VmRecord, new: VmRecord) -> str:
    said = []
    if old.status != new.status:
        said.append(f"{old.status} -> {new.status}")
    if new.claim and new.claim != old.claim:
        said.append(f"claimed ({new.claim.purpose} {new.claim.number})")
    if new.last_copy and new.last_copy != old.last_copy:
        said.append(f"copy {new.last_copy.stamp}")
    if new.restored and new.restored != old.restored:
        said.append(f"{new.restored.stamp} restored on {new.restored.node} as {new.restored.name}")
    if old.restored and not new.restored:
        said.append(f"not what it was at {old.restored.stamp} any more")
    said += [
        f"{hold.stamp} {'let go by' if hold.ended else 'held by'} {hold.title}"
        for hold in new.holds
        if hold not in old.holds
    ]
    if new.node != old.node:
        said.append(f"moved from {old.node or 'nowhere'} to {new.node}")
    if new.missing_since != old.missing_since:
        said.append("missing" if new.missing_since else "back")
    if new.last_error and new.last_error != old.last_error:
        said.append(new.last_error)
    return ", ".join(said) or "updated"


def _was_live(contents: Contents, session: str) -> bool:
    row = contents.sessions.get(session)
    return row is not None and row.state == "live"
