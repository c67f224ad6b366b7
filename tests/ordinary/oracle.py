"""The oracle of the table.

After each step, is every copy, VM, disk and file there that must be, and is CLEAN true?

Which of two copies is newer is not asked of their numbers or times: the diary notes in which order
they appeared. It shares no code with the product (see `tests.ordinary.looking`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.ordinary.looking import Copy, View

#: Commands that end like that have refused: nothing may be different afterwards. (1 can be a part:
#: what could not be moved.)
_NO_REFUSALS = (0, 1, 3, 4)


@dataclass(frozen=True)
class Step:
    """What was done between two looks, and what it may change.

    `retains`: old copies may go. `asked`: stamps that it was told to remove. `makes`: names of VMs
    that it may add. `touches`: UUIDs of VMs that it may stop, start or write. `settles`: hosts
    whose CLEAN must be true afterwards, whoever said it. `forgets`: the database may have changed
    in any way, because the step is what befell it.
    """

    name: str
    status: int = 0
    retains: bool = False
    asked: frozenset[str] = frozenset()
    makes: frozenset[str] = frozenset()
    touches: frozenset[str] = frozenset()
    settles: frozenset[str] = frozenset()
    forgets: bool = False

    @property
    def refused(self) -> bool:
        """Whether the program said that it did nothing."""
        return self.status not in _NO_REFUSALS


@dataclass
class Diary:
    """What happened, in the order in which it did.

    `keep` is how many of the newest copies of a VM always stay.
    """

    keep: int = 2
    _made: dict[Copy, int] = field(default_factory=dict)
    _contents: dict[Copy, str] = field(default_factory=dict)
    _used: dict[str, int] = field(default_factory=dict)
    _spoilt: set[Copy] = field(default_factory=set)
    _now: int = 0

    def copy(self) -> "Diary":
        """A diary that goes on from here by itself."""
        return Diary(
            self.keep,
            dict(self._made),
            dict(self._contents),
            dict(self._used),
            set(self._spoilt),
            self._now,
        )

    def use(self, uuid: str) -> None:
        """The VM was used: what its guest has on its disks is in no copy yet."""
        self._now += 1
        self._used[uuid] = self._now

    def spoil(self, copy: Copy) -> None:
        """The test itself removed or damaged this copy."""
        self._spoilt.add(copy)

    def content(self, copy: Copy) -> str:
        """What the VM's disks had when the copy was made."""
        return self._contents[copy]

    def order(self, uuid: str, among: Mapping[Copy, object]) -> list[Copy]:
        """The copies of a VM, oldest first, by when they were made."""
        return sorted(
            (copy for copy in among if copy.uuid == uuid), key=lambda copy: self._made[copy]
        )

    def note(self, view: View) -> None:
        """Notes the copies that are new."""
        contents = {uuid: vm.content for vms in view.vms.values() for uuid, vm in vms.items()}
        for copy in sorted(set(view.copies) - set(self._made)):
            self._now += 1
            self._made[copy], self._contents[copy] = self._now, contents.get(copy.uuid, "")

    def judge(self, before: View, after: View, step: Step) -> list[str]:
        """Everything that is wrong after a step; empty if all is well."""
        self.note(after)
        found = [
            *self._lost(before, after, step),
            *_machines(before, after, step),
            *_disks(before, after, step),
            *_files(before, after),
            *self._clean(before, after, step),
            *(() if step.forgets else self._disowned(before, after)),
        ]
        if step.refused and not step.forgets:
            found += _changed_though_refused(before, after)
        return [f"{step.name} (exit code {step.status}): {problem}" for problem in found]

    def _lost(self, before: View, after: View, step: Step) -> Iterator[str]:
        everything = {**before.copies, **after.copies}
        for copy in sorted(set(before.copies) - set(after.copies) - self._spoilt):
            newer = [
                other
                for other in self.order(copy.uuid, everything)
                if self._made[other] > self._made[copy]
            ]
            good = [other for other in newer if other in after.copies]
            if copy.stamp in step.asked:
                if not self.order(copy.uuid, after.copies):
                    yield f"the copy {copy.stamp} of {copy.uuid} was the last good one"
            elif not good:
                yield (
                    f"the copy {copy.stamp} of {copy.uuid} is lost, and there is no newer good one"
                )
            elif not step.retains:
                yield (
                    f"the copy {copy.stamp} of {copy.uuid} is gone, and nothing was asked for "
                    f"that removes copies"
                )
            elif len(good) < self.keep:
                yield (
                    f"the copy {copy.stamp} of {copy.uuid} is gone with only {len(good)} "
                    f"newer ones there: {self.keep} stay"
                )
        for copy in sorted(set(before.copies) & set(after.copies)):
            if not after.copies[copy]:
                yield f"the copy {copy.stamp} is nowhere"

    @staticmethod
    def _stands_for(stamp: str | None, good: Sequence[Copy]) -> bool:
        """Whether a record names a copy that is there; or an older one, which retention removed.

        A database that was put back says that of a VM that is no more, until `verify` has looked.
        """
        return stamp in {copy.stamp for copy in good} or bool(stamp and stamp < good[-1].stamp)

    def _clean(self, before: View, after: View, step: Step) -> Iterator[str]:
        for key, record in after.records.items():
            said_before = before.records.get(key, {}).get("status") == "CLEAN" or step.forgets
            if record["status"] != "CLEAN" or (said_before and record["node"] not in step.settles):
                continue
            good = [
                copy
                for copy in self.order(record["uuid"], after.copies)
                if copy not in self._spoilt
            ]
            if not good:
                yield f"{key} is CLEAN and has no good copy"
            elif self._made[good[-1]] < self._used.get(record["uuid"], 0):
                yield f"{key} is CLEAN, but was used since its newest copy {good[-1].stamp}"
            elif not self._stands_for(record.get("last_copy", {}).get("stamp"), good):
                yield (
                    f"{key} is CLEAN by the copy {record.get('last_copy', {}).get('stamp')}, "
                    f"which is not there"
                )

    def _disowned(self, before: View, after: View) -> Iterator[str]:
        """The database may not lose sight of a VM's copies while they are there, as of those in an
        archive that is not mounted.
        """
        for key, record in after.records.items():
            old = before.records.get(key, {})
            same = (
                old.get("uuid") == record["uuid"]
                and old.get("last_copy")
                and not record.get("last_copy")
            )
            if same and set(self.order(record["uuid"], after.copies)) - self._spoilt:
                yield f"{key} has no copy any more by the database, and there are some"

    def newest(self, uuid: str, view: View) -> Copy | None:
        """The newest good copy of a VM."""
        found = self.order(uuid, view.copies)
        return found[-1] if found else None


def _machines(before: View, after: View, step: Step) -> Iterator[str]:
    for host, vms in before.vms.items():
        for uuid, vm in vms.items():
            now = after.vms[host].get(uuid)
            if now is None:
                yield f"the VM {vm.name} {{{uuid}}} of {host} is gone"
            elif (now.name, now.snapshots) != (vm.name, vm.snapshots):
                yield f"the VM {vm.name} of {host} was {vm} and is {now}"
            elif uuid not in step.touches and (now.state, now.content) != (vm.state, vm.content):
                yield (
                    f"the VM {vm.name} of {host} was {vm.state} with {vm.content} and is "
                    f"{now.state} with {now.content}"
                )
        for uuid in sorted(set(after.vms[host]) - set(vms)):
            if after.vms[host][uuid].name not in step.makes:
                yield f"the VM {after.vms[host][uuid].name} {{{uuid}}} was left on {host}"


def _disks(before: View, after: View, step: Step) -> Iterator[str]:
    touched = [
        f"/{vm.uuid}."
        for vms in before.vms.values()
        for vm in vms.values()
        if vm.uuid in step.touches
    ]
    touched += [
        f"/vms/{vm.name}/"
        for vms in before.vms.values()
        for vm in vms.values()
        if vm.uuid in step.touches
    ]
    for path in sorted(set(before.disks) | set(after.disks)):
        old, new = before.disks.get(path), after.disks.get(path)
        rewritten = (
            old is not None
            and new is not None
            and (path.endswith(".vbox") or any(part in path for part in touched))
        )
        if (
            old == new
            or rewritten
            or path.endswith(".vbox-prev")
            or any(f"/{name}/" in path for name in step.makes)
        ):
            continue
        yield (
            f"the file {path} of a VM "
            f"{'is gone' if new is None else 'is new' if old is None else 'was changed'}"
        )


def _files(before: View, after: View) -> Iterator[str]:
    for path in sorted(set(before.files) | set(after.files)):
        old, new = before.files.get(path), after.files.get(path)
        if old != new:
            yield (
                f"{path}, which is none of ours, "
                f"{'is gone' if new is None else 'is new' if old is None else 'was changed'}"
            )
    for path in sorted(after.partial - before.partial):
        yield f"{path} was left"


def _changed_though_refused(before: View, after: View) -> Iterator[str]:
    if before.copies != after.copies or before.copy_files != after.copy_files:
        yield "it refused, and copies were moved or changed"
    for what in ("status", "directory", "last_copy", "moving", "claim", "node"):
        old, new = (
            {key: record.get(what) for key, record in view.records.items()}
            for view in (before, after)
        )
        if old != new:
            yield f"it refused, and {what} was {old} and is {new}"


def explain(problems: Sequence[str]) -> str:
    """All problems, a line each."""
    return "\n".join(f"  {problem}" for problem in problems)
