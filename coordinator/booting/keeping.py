"""What goes on beside the serving of disks: filling, telling how far it is, and settling."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from coordinator.booting.filling import Filler
from coordinator.booting.served_disk import ServedDisk
from shared.copies.space_needed import human
from shared.host.errors import CopyError, VmBackupError
from shared.host.process_identity import ProcessIdentity
from shared.tasks import boot_mounts, boot_note
from shared.tasks.boot_note import BootNote, Phase
from shared.virtualbox import scratch


@dataclass(frozen=True, slots=True)
class KeepingTimes:
    """How often what is told, and what is tried.

    `attempts`: so often settling is tried after the disks were unmounted, which nobody else does
    by himself.
    """

    progress_seconds: float = 1.0
    settle_seconds: float = 10.0
    attempts: int = 30


TIMES: Final = KeepingTimes()


def settle_here(note: BootNote, job: Mapping[str, Any]) -> str:
    """Makes an ordinary VM of it if it is off; why not yet."""
    from coordinator.booting import settling
    from shared.host.clock import SystemClock
    from shared.host.configuration import load
    from shared.site import open_site

    return settling.settle(open_site(load(job["config"]), SystemClock()), note, serving=True)


class Keeper:
    """Fills the disks, proves that they are whole, and makes an ordinary VM of it, in threads."""

    def __init__(
        self,
        note: BootNote,
        disks: list[ServedDisk],
        job: Mapping[str, Any],
        unread: Callable[[], str] = lambda: "",
        *,
        settle: Callable[[BootNote, Mapping[str, Any]], str] = settle_here,
        times: KeepingTimes = TIMES,
        ended: threading.Event | None = None,
    ) -> None:
        """`unread` says why the guest waits for what it wants to read; empty: it does not.

        `settle` makes an ordinary VM of it, or says why not yet. `ended` is set when nothing is
        served any more.
        """
        self._settle, self._times = settle, times
        self._note, self._job, self._unread = note, job, unread
        self._filler = Filler(disks)
        self._problem = ""
        self._ended = ended or threading.Event()
        #: Nothing changes any more of what is told.
        self._over = threading.Event()
        self._work = threading.Thread(target=self._fill_and_settle, name="filling")
        self._telling = threading.Thread(target=self._tell, name="telling")

    @property
    def doubts(self) -> list[str]:
        """Why it may not be filled to the end."""
        short = self._filler.short
        return [f"{self._note.filling} has no room for {human(short)} of it"] if short else []

    def start(self) -> None:
        """Begins."""
        self._telling.start()
        self._work.start()

    def stop(self) -> None:
        """Nothing is served any more. Returns when all threads have ended.

        What settles just now, and has unmounted the disks for that, is waited for.
        """
        self._ended.set()
        self._filler.stop()
        if self._work.ident is not None:  # else nothing was begun
            self._work.join()
            self._over.set()
            self._telling.join()

    def _tell(self) -> None:
        told: dict[str, object] = {}
        own = ProcessIdentity.of(os.getpid())
        who = {"pid": own.pid, "started": own.started, "born": own.born} if own else {}
        over = False
        while not over:
            over = self._over.is_set()  # before: what was so last is told, too
            document = {**who, **self.facts()}
            with contextlib.suppress(VmBackupError, OSError):  # the disk is full: it gets old
                if not self._note.filling.is_dir():
                    return  # it was settled, or discarded
                if document == told:
                    os.utime(self._note.progress.path)
                else:
                    self._note.progress.write(document)
                    told = document
                self._keep_note()
            self._over.wait(self._times.progress_seconds)

    def facts(self) -> dict[str, object]:
        """What is told of it now: bytes, how fast it goes, and what is wrong."""
        filler, problem = self._filler, self._filler.problem or self._problem
        goes_on = filler.filled < filler.total and not problem
        facts: dict[str, object] = {"filled": filler.filled, "total": filler.total}
        facts |= {"rate": filler.rate if goes_on else 0, "short": filler.short}
        return {**facts, "problem": problem, "unread": self._unread()}

    def _keep_note(self) -> None:
        """Notes it again if that is lost. Only who has removed the mark means to forget it."""
        note = self._note
        if not note.file.exists() and scratch.mark_in(note.folder) == note.mark:
            boot_note.write(replace(note, phase=Phase.RUNNING))

    def _fill_and_settle(self) -> None:
        if not self._filler.run() or not self._prove_whole():
            return
        failed = 0
        while failed < self._times.attempts:
            try:
                self._keep_note()
                if not self._settle(self._note, self._job):
                    return
                self._problem = ""
                if self._ended.is_set() and not self._is_placed():
                    return
            except (VmBackupError, OSError) as error:
                self._problem = str(error)
                failed += self._ended.is_set() or not boot_mounts.is_mounted(self._note)
            if self._ended.is_set():
                time.sleep(self._times.settle_seconds)
            else:
                self._ended.wait(self._times.settle_seconds)

    def _is_placed(self) -> bool:
        """Whether nothing is left to do but to merge, when the VM is off again."""
        found = boot_note.read(self._note.file)
        return found is not None and found.phase == Phase.PLACED

    def _prove_whole(self) -> bool:
        """Notes that the disks are whole; False, with the reason told, if that is not so."""
        while not self._ended.is_set() and self._note.filling.is_dir():
            try:
                self._verify()
                self._note.whole.write({"stamp": self._note.stamp, "index": self._note.index})
                self._problem = ""
                return True  # noqa: TRY300 - what follows is for failures
            except CopyError as error:
                self._problem = error.message
                return False
            except (VmBackupError, OSError) as error:
                self._problem = str(error)
            self._ended.wait(self._times.settle_seconds)
        return False

    def _verify(self) -> None:
        """Reads a copy in full of which no index says what each block is."""
        if self._job["indexed"]:
            return
        from shared.copies import catalogue
        from shared.tasks import verification

        found = catalogue.read(Path(self._job["ova"]).parent, self._note.vm).find(self._note.stamp)
        if found is None:
            raise CopyError(f"the copy {self._note.stamp} is not there")
        verification.check(found, lambda _done, _total: None)
