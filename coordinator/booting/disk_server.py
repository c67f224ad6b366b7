"""A program of its own: serves the disks of a VM that runs from its copy, and fills them.

What to serve comes by standard input as one JSON object. When the files are there it says `ready`
on standard output and closes that; before, it says there what went wrong. When all is filled and
the VM is off, it makes an ordinary VM of it, and ends.
"""

import contextlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from coordinator.booting import mounts
from coordinator.booting.ending import ended_by_sigterm
from coordinator.booting.identity import require_same
from coordinator.booting.keeping import Keeper
from coordinator.booting.laying_out import lay_out
from coordinator.booting.read_errors import Refusals, number_of
from coordinator.booting.served_disk import ServedDisk
from coordinator.fuse import server_process
from coordinator.mounting.steady_copy import SteadyCopy
from shared.host.errors import CopyError, LockedError
from shared.host.host_lock import host_lock
from shared.host.processes import SubprocessRunner
from shared.tasks import boot_mounts, boot_note
from shared.tasks.boot_note import BootNote


def main() -> None:
    """Serves what standard input says, and says on standard output that it does."""
    server_process.run(serve_alone)


def serve_alone(job: Mapping[str, Any]) -> None:
    """Serves what the job says, like `serve`, if no other process does.

    Raises `CopyError` if the VM is not noted any more, `LockedError` if another one does.
    """
    note = boot_note.read(Path(job["note"]))
    if note is None:
        raise CopyError(f"{job['note']} is gone")
    with host_lock(note.file.parent, note.server_lock) as mine:
        if not mine:
            raise LockedError(f"the disks of {note.name!r} are served already")
        serve(note, job)


def serve(note: BootNote, job: Mapping[str, Any]) -> None:
    """Serves until it is unmounted, or a while after SIGTERM, which unmounts it.

    Raises what cannot be opened, RuntimeError if not mounted.
    """
    from coordinator.fuse.file_operations import Operations

    with contextlib.ExitStack() as stack:
        stack.enter_context(
            ended_by_sigterm(partial(mounts.unmount, note, SubprocessRunner(), lazily=True))
        )
        copy = stack.enter_context(SteadyCopy(Path(job["ova"])))
        require_same(copy.reader(), str(job["sha256"]), note)
        disks = _open(copy, note, stack, fresh=bool(job["fresh"]))
        refusals = Refusals(disks)
        keeper = Keeper(note, list(disks.values()), job, lambda: refusals.problem)

        def ready() -> None:
            server_process.say({"ready": True, "pid": os.getpid(), "problems": keeper.doubts})
            keeper.start()

        moment = max(disk.path.stat().st_ctime_ns for disk in disks.values())
        try:
            server_process.serve(
                Operations(
                    *(disks, refusals.read),
                    moment=moment,
                    ready=ready,
                    used=refusals.opened,
                    number_of=number_of,
                ),
                str(note.place),
                what=f"{note.name}:{note.stamp}",
                kind=boot_mounts.SUBTYPE,
            )
        finally:
            keeper.stop()


def _open(
    copy: SteadyCopy, note: BootNote, stack: contextlib.ExitStack, *, fresh: bool
) -> dict[str, ServedDisk]:
    numbers = {disk.name: number for number, disk in enumerate(copy.reader().disks, 1)}
    disks = {}
    for disk in note.disks:
        number, path = numbers[disk.member], note.partial(disk)
        if fresh:
            lay_out(copy.reader().disks[number - 1], path, UUID(disk.uuid))
        disks[disk.file] = stack.enter_context(ServedDisk(path, partial(copy.read, number)))
    return disks


if __name__ == "__main__":
    main()
