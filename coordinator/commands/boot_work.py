"""What `vmbackup-admin boot` does, and how that is told."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coordinator import confirming, text, vm_argument
from shared.host.errors import CopyError, ExitCode, VBoxManageError
from shared.host.printable import option
from shared.output import answer, warn
from shared.tasks import boot_note
from shared.tasks.boot_note import BootNote, Phase

if TYPE_CHECKING:
    from coordinator.restore.completing import RestoreDifference
    from shared.copies.catalogue import Copy
    from shared.site import Site
    from shared.state.records import VmRecord
    from shared.tasks.boot_done import DoneBoot

_POLL_SECONDS: Final = 1.0


class BootCommand:
    """One command at a site; `config` is its configuration, if one was named."""

    #: How long nothing may be filled before what hinders it is told, and not waited for any more.
    stuck_seconds = 30.0

    def __init__(self, site: "Site", config: str | None, *, as_json: bool, dry_run: bool) -> None:
        self._site, self._as_json, self._dry_run = site, as_json, dry_run
        self._config = str(Path(config).absolute()) if config else None
        #: What was warned of, which does not hinder.
        self._warnings = list[str]()

    def begin(
        self,
        record: "VmRecord",
        which: str,
        name: str,
        folder: Path | None,
        *,
        network: bool | None,
        noted: Callable[[], None],
    ) -> ExitCode:
        """Makes the VM and starts it. Calls `noted` when it is noted that the name is taken."""
        from coordinator.booting import isolation, machine_making
        from coordinator.restore import choice, restoring
        from shared.serving import places

        places.require_fuse()
        if folder:
            restoring.refuse_mistyped(folder)
        chosen = choice.look_for(self._site, record, which)
        self._warn(*filter(None, [chosen.doubt]))
        why = "--isolated was given" if network is False else ""
        if network is None:
            why = isolation.why_isolated(self._site, record)
        way = machine_making.plan(
            *(self._site, chosen.copy),
            name=name,
            folder=folder,
            config=self._config,
            network=not why,
        )
        facts: dict[str, Any] = {"vm": record.key, "stamp": chosen.copy.stamp}
        facts["name"] = way.what.name
        facts |= {"folder": str(way.what.folder), "network": not why, "isolated_because": why}
        facts |= _left_out(way.without)
        without = _without(way.without)
        if self._dry_run:
            said = f"would run {way.what.name} from {chosen.copy.stamp} in {way.what.folder}"
            cut = [f"Its network would be cut off: {why}."] if why else []
            return self._say(facts, said, *without, *cut)
        note, doubts = machine_making.begin(self._site, record, chosen.copy, way, noted=noted)
        self._warn(*doubts)
        said = f"{note.name} runs from {note.stamp} of {record.key} in {note.folder}"
        cut = [f"Its network is cut off: {why}."] if why else []
        if why and (cards := isolation.plugged_cards(way.how.kept)):
            plug = isolation.cabling(note.uuid, cards, on=True, running=True)
            cut += ["To plug it in:", f"  {plug}"]
        return self._say({**facts, "uuid": note.uuid}, said, *without, *cut, *_next(note))

    def go_on(
        self, note: BootNote, *, network: bool | None = None, folder: Path | None = None
    ) -> ExitCode:
        """Serves the disks again if need be, and starts the VM, which must be as is wanted."""
        from coordinator.booting import going_on
        from shared.tasks.boot_progress import progress

        going_on.require_as_begun(self._site, note, network=network, folder=folder)
        if self._dry_run:
            return self._say(_facts(note), f"would go on with {note.name} from {note.stamp}")
        note = self._serve(note)
        merged = self._settle(note)
        started = going_on.start(self._site, note)
        self._warn(*filter(None, [progress(note).problem]))
        going_on.require_not_paused_again(self._site, note)
        said = [f"{note.name} runs {'again' if started else 'already'}"]
        if not note.file.exists():
            said.append("It is an ordinary VM by now.")
        elif merged:
            said += _next(note)
        return self._say(_facts(note), *said)

    def finish(self, note: BootNote) -> ExitCode:
        """Waits until it is an ordinary VM."""
        from coordinator.booting import machines

        if self._dry_run:
            return self._say(_facts(note), f"would finish {note.name}: {_progress(note)}")
        try:
            note = self._wait(note)
        finally:
            text.progress("")
        folder = machines.folder_of(self._site, note)
        facts = {**_facts(note), "folder": str(folder), "progress": {}}
        return self._say(facts, f"{note.name} is an ordinary VM in {folder}")

    def finished_before(self, done: "DoneBoot", folder: Path) -> ExitCode:
        """Says that it is an ordinary VM already, as its server or an earlier command made it."""
        facts = {"vm": done.vm, "stamp": done.stamp, "name": done.name, "uuid": done.uuid}
        said = f"{done.name} is an ordinary VM in {folder}, since {done.when}"
        return self._say({**facts, "folder": str(folder), "progress": {}}, said)

    def discard(self, note: BootNote, *, yes: bool) -> ExitCode:
        """Removes it."""
        from coordinator.booting import removing

        if self._dry_run:
            return self._say(_facts(note), f"would remove {note.name} and {note.folder}")
        question = f"Remove {note.name}, with all that its guest wrote since {note.since}?"
        if not yes and not confirming.confirmed(question, yes="removes it without being asked"):
            warn("nothing was removed")
            return ExitCode.FAILURE
        facts = _facts(note)
        kept = removing.discard(self._site, note)
        said = [f"removed {note.name}"]
        if kept:
            said += [f"{note.folder} stays, with what was not made for it:"]
            said += [f"  {name}" for name in kept]
        return self._say({**facts, "kept": list(kept)}, *said)

    def _settle(self, note: BootNote) -> bool:
        """Settles it if it is whole and off; False if what its guest wrote cannot be merged."""
        from coordinator.booting import settling

        try:
            if note.is_whole or note.phase == Phase.PLACED:
                settling.settle(self._site, note)
        except VBoxManageError as error:
            found = boot_note.read(note.file)
            if found is None or found.phase != Phase.PLACED:
                raise
            self._warn(error.message)  # its disks are there, so it can be started
            return False
        return True

    def _wait(self, note: BootNote) -> BootNote:
        """The note as it was last: its folder may have been renamed."""
        from coordinator.booting import mounts, settling
        from shared.tasks.boot_progress import progress

        filled, since = -1, self._site.clock.monotonic()
        while True:
            if not mounts.answers(note):
                note = self._serve(note)
            if not (reason := settling.settle(self._site, note)):
                return note
            found = progress(note)
            if found.filled != filled:
                filled, since = found.filled, self._site.clock.monotonic()
            self._refuse_stuck(note, found.problem, since)
            self._warn(*filter(None, [found.paused]))
            text.progress(f"{note.name}: {found.words}; {reason}")
            self._site.clock.sleep(_POLL_SECONDS)

    def _refuse_stuck(self, note: BootNote, problem: str, since: float) -> None:
        """Raises `CopyError` if its server is there, and has not got on for long."""
        stuck = self._site.clock.monotonic() - since >= self.stuck_seconds
        if problem and stuck and (server := note.server) is not None and server.is_certain():
            raise CopyError(
                f"{note.name!r} is not filled, and does not get on: {problem}",
                hint="its server goes on trying as long as it runs: make room, if that is what it "
                "lacks; if the copy is damaged: what the guest wrote can be copied elsewhere, then "
                f"vmbackup-admin boot {option('--discard', note.name)}",
            )

    def _serve(self, note: BootNote) -> BootNote:
        from coordinator.booting import going_on

        served, doubts = going_on.go_on(
            self._site, note, lambda: _copy_of(self._site, note), self._config
        )
        self._warn(*doubts)
        return served

    def _warn(self, *problems: str) -> None:
        for problem in problems:
            warn(problem)
        self._warnings += [each for each in problems if each not in self._warnings]

    def _say(self, facts: dict[str, Any], *lines: str) -> ExitCode:
        said = {**facts, "warnings": self._warnings, "dry_run": self._dry_run}
        answer(said, *lines, as_json=self._as_json)
        return ExitCode.DONE


def _copy_of(site: "Site", note: BootNote) -> "tuple[VmRecord, Copy]":
    from coordinator.restore import choice

    record = vm_argument.choose(site, site.database.head().contents, note.vm)
    return record, choice.choose(site, record, note.stamp)


def _facts(note: BootNote) -> dict[str, Any]:
    facts = {"vm": note.key, "stamp": note.stamp, "name": note.name, "uuid": note.uuid}
    return {**facts, "folder": str(note.folder), "progress": dict(note.progress.read())}


def _progress(note: BootNote) -> str:
    from shared.tasks.boot_progress import progress

    return progress(note).words


def _next(note: BootNote) -> list[str]:
    return [
        "Its disks are filled in the background. When that is done and it is off,",
        "it becomes an ordinary VM by itself. To wait for that, or to throw it away:",
        f"  vmbackup-admin boot {option('--finish', note.name)}",
        f"  vmbackup-admin boot {option('--discard', note.name)}",
    ]


def _left_out(without: "RestoreDifference") -> dict[str, Any]:
    facts = {"host_access": without.host_access, "left_out": without.left_out}
    return {name: list(items) for name, items in {**facts, "lost": without.lost}.items()}


def _without(without: "RestoreDifference") -> list[str]:
    """What it has not that its original had, for people."""
    said = []
    for heading, items in (
        ("Without what lets it write to this host or listen there:", without.host_access),
        ("Not in the copy:", without.left_out),
        ("Not as it was:", without.lost),
    ):
        said += [heading, *(f"  {item}" for item in items)] if items else []
    return said
