"""The audit trail: what each commit changed, read from the generations.

One that is damaged or gone is shown as such.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.host.errors import DatabaseDamagedError, DatabaseVersionError
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.store import generations
from shared.state.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Commit:
    """One generation. `problem` says why nothing else is known of it.

    `changes` what became of VMs, in words.
    """

    generation: int
    committed: str = ""
    node: str = ""
    session: str = ""
    reason: str = ""
    problem: str = ""
    changes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `log --json` shows it."""
        document = {
            name: getattr(self, name)
            for name in ("generation", "committed", "node", "session", "reason")
        }
        return {**document, "problem": self.problem or None, "changes": list(self.changes)}


def newest(root: Path, limit: int, vm: str | None = None) -> list[Commit]:
    """The newest `limit` commits (that changed `vm`, if given), newest first.

    Raises `NoDatabaseError`, `NasError`.
    """
    present = generations.numbers(root)
    oldest = generations.oldest_number(root)
    commits: list[Commit] = []
    after: Snapshot | str | None = _read(root, present[-1]) if present else None
    for number in range(present[-1] if present else 0, oldest - 1, -1):
        before = _read(root, number - 1) if number > oldest else None
        if vm is None or _concerns(before, after, vm):
            commits.append(_commit(number, before, after))
        if len(commits) == limit:
            break
        after = before
    return commits


def _read(root: Path, number: int) -> Snapshot | str:
    """A generation, or why it cannot be shown."""
    try:
        return generations.read_number(root, number) or "missing"
    except (DatabaseDamagedError, DatabaseVersionError) as error:
        return error.message


def _commit(number: int, before: Snapshot | str | None, after: Snapshot | str | None) -> Commit:
    if not isinstance(after, Snapshot):
        return Commit(number, problem=after or "missing")
    header = after.header
    old = before.contents if isinstance(before, Snapshot) else Contents() if number == 1 else None
    changed = tuple(_changes(old, after.contents)) if old is not None else ()
    return Commit(
        number, header.committed, header.node, header.session, header.reason, changes=changed
    )


def _concerns(before: Snapshot | str | None, after: Snapshot | str | None, vm: str) -> bool:
    if not isinstance(after, Snapshot):
        return False
    old = before.contents.vms.get(vm) if isinstance(before, Snapshot) else None
    return old != after.contents.vms.get(vm)


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
