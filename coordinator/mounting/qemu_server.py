"""A program of its own: like `copy_server`, where nbdfuse and qemu-nbd show the disks.

It is their parent: holds the copy, looks whether somebody uses it, and ends them. Killed, they end
with it.
"""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from coordinator.fuse import server_process
from coordinator.mounting.file_events import FileEvents
from coordinator.mounting.held_copy import held
from coordinator.mounting.qemu_disk import QemuDisk, QemuError
from coordinator.mounting.shown_files import CopyView, ViewFile
from coordinator.mounting.uses import Uses
from shared.host.errors import CopyError
from shared.host.printable import quoted
from shared.ova.disk_reader import DiskReader
from shared.serving.noted_places import NotedPlace, is_open
from shared.serving.places import mounted

_LOOK_SECONDS: Final = 2.0
#: Each disk or partition takes two processes of a few megabytes; a copy may name any number.
_MOST_FILES: Final = 32
_UNCOMPARED: Final = (
    "no block is compared with its digest, for qemu-nbd reads the disks: what is damaged is found "
    "by the checksum of its compressed bytes alone"
)


def main() -> None:
    """Serves what standard input says, and says on standard output that it does."""
    server_process.run(_work)


def _work(job: Mapping[str, Any]) -> None:
    server_process.ignore_terminal()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # not without ending what was started
    with CopyView(Path(job["ova"])) as view, held(job):
        serve(view, job)


@dataclass
class MountedDisks:
    """What is mounted in a directory so far, and why other disks are not."""

    place: NotedPlace
    what: str
    copy: IO[bytes]
    errors: IO[bytes]
    events: FileEvents
    found: list[QemuDisk]
    problems: list[str] = field(default_factory=list)

    def add(self, disk: DiskReader, name: str, file: ViewFile) -> bool:
        """Shows a disk or a partition. False if that cannot be, which is among the problems."""
        new = QemuDisk(disk, file, self.place.add(name), self.what, self.copy, self.errors)
        try:
            new.start()
        except QemuError as error:
            self.place.drop(name)
            self.problems.append(f"{name}: {error.message}")
            return False
        self.found.append(new)
        self.events.add(new.path)
        return True

    def look(self) -> None:
        """Shows again what has failed. Raises `QemuError`, OSError if that cannot be."""
        self.errors.truncate(0)  # each read that fails adds to it
        for each in self.found:
            if each.lost():
                each.restart()
                self.events.add(each.path)

    def unmount(self) -> None:
        """Also what is open."""
        for each in self.found:
            each.unmount()

    def all_mounted(self) -> bool:
        """Whether nobody has unmounted one, which goes on as long as it is open."""
        there = {file for each in mounted() for file in each.files}
        return all(str(each.path) in there for each in self.found)

    def any_open(self) -> bool:
        """Whether somebody has one open."""
        return any(is_open(str(each.path)) for each in self.found)


def serve(view: CopyView, job: Mapping[str, Any]) -> None:
    """Serves until one of the files is unmounted, or nobody used any for long.

    Raises `CopyError` if not one disk can be shown, `NasError`, OSError.
    """
    with contextlib.ExitStack() as stack:
        found: list[QemuDisk] = []
        stack.callback(_end, found)
        what, place = str(job["what"]), Path(job["place"])
        shown = MountedDisks(
            stack.enter_context(NotedPlace(place, what)),
            what,
            stack.enter_context(os.fdopen(os.dup(view.reader().descriptor), "rb")),
            stack.enter_context(tempfile.TemporaryFile("a+b")),
            stack.enter_context(FileEvents()),
            found,
        )
        stack.callback(shown.unmount)
        missing = _show(view, shown)
        problems = [*view.problems, *view.unread, *shown.problems]
        if not found:
            vm = quoted(str(job.get("key", "VM")))
            raise CopyError(
                "qemu-nbd can show no disk of this copy, which is damaged, or of a kind that it "
                f"does not read: {'; '.join(problems) or 'it has none'}",
                hint=f"`vmbackup-admin verify {vm}` reads it in full, and tells whether it is "
                "damaged; the extra `mount` (mfusepy) shows all that can be read of it",
            )
        server_process.say(
            {"ready": True, "pid": os.getpid(), "problems": problems, "missing": missing}
        )
        _wait_until_unused(shown, float(job["idle"]))


def _end(found: list[QemuDisk]) -> None:
    for each in found:
        each.end()


def _show(view: CopyView, shown: MountedDisks) -> list[str]:
    """Shows all that can be, and says what is never shown this way."""
    missing, broken, disks = [_UNCOMPARED], set[int](), view.reader().disks
    for name, file in view.files.items():
        if file.volume:
            missing.append(f"{name}: no volumes of LVM")
        elif not file.disk:
            shown.place.add(name, file.content)
    for number in {file.disk for file in view.files.values()} - {0}:
        try:
            disks[number - 1].check_tables()
        except CopyError as error:
            shown.problems.append(f"disk {number}: {error.message}")
            broken.add(number)
    # whole disks first: they hold what there are too many of
    for name, file in sorted(view.files.items(), key=lambda each: ".part" in each[0]):
        if not file.disk or file.disk in broken:
            continue
        if len(shown.found) >= _MOST_FILES:
            missing.append(f"{name}: no more than {_MOST_FILES} disks and partitions")
        elif not shown.add(disks[file.disk - 1], name, file) and ".part" not in name:
            broken.add(file.disk)
    return missing


def _wait_until_unused(shown: MountedDisks, idle_seconds: float) -> None:
    uses = Uses()
    first, *others = shown.found
    while not first.ended(min(_LOOK_SECONDS, idle_seconds)):
        if any(other.ended() for other in others) or not shown.all_mounted():
            return
        shown.look()
        if shown.events.any():
            uses.touch()
        if uses.idle_seconds() >= idle_seconds:
            if not shown.any_open():
                return
            uses.touch()


if __name__ == "__main__":
    main()
