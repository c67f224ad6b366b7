"""Lowering the priority of an export on this host, and not that of anybody's VM with it.

Priority is inherited: VBoxManage starts VBoxSVC where there is none, and VBoxSVC starts the VMs, so
a worker or a VBoxManage of low priority would lower that of VMs for as long as they run (measured).
Therefore only single threads are lowered, those that do nothing but the export and end with it:
there is nothing to undo. That needs Linux, where threads have priorities of their own; elsewhere
nothing is done.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

import psutil

from shared.host.process_identity import START_TOLERANCE_SECONDS, ProcessIdentity

log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")

#: VBoxSVC's thread that reads disks, packs them and writes the `.ova`, as the kernel shows its name
#: (`ApplWriter`, cut off).
_WRITER: Final = "ApplWrit"
#: Threads of the parallel engine that start no process.
_ENGINE: Final = "engine-"
#: Of eight levels in the class of ordinary processes the one that comes last.
_LAST_LEVEL: Final = 7
#: Work that was told to stop is waited for so long; one that hangs in a dead NAS ends with the
#: process.
_STOP_SECONDS: Final = 10.0


class ExportPriority:
    """The priority of one export's threads.

    `exporter` is the process that was started for it: VBoxManage, or this one.
    """

    def __init__(self, target: Path, nice: int, exporter: ProcessIdentity | None) -> None:
        self._target, self._nice, self._exporter = target, nice, exporter
        self._done = exporter is None or not nice or sys.platform != "linux"

    def lower(self) -> None:
        """Looks for the export's threads and lowers them.

        Call it now and then; asks the file system of the target. Never raises.
        """
        if self._done or self._exporter is None:
            return
        if self._exporter.pid == os.getpid():
            threads = [
                thread.native_id
                for thread in threading.enumerate()
                if thread.name.startswith(_ENGINE)
            ]
        else:
            threads = [find_writer(self._target, self._exporter.started)]
        for thread in threads:
            self._done = (thread is not None and lower_thread(thread, self._nice)) or self._done


def find_writer(target: Path, since: float) -> int | None:
    """The thread of VBoxSVC that writes `target`; None if there is none.

    `since`: when the export was begun, in seconds since the epoch. Of several exports that one
    VBoxSVC runs, each has a thread; the one meant is the first that began not before the export.
    """
    with contextlib.suppress(OSError):
        file = os.stat(target)
        for process in psutil.process_iter(["name", "uids"]):
            uids = process.info["uids"]
            if (
                process.info["name"] == "VBoxSVC"
                and uids
                and uids.real == os.getuid()
                and _has_open(process.pid, file)
            ):
                began = {
                    thread: moment
                    for thread, moment in _writers(process.pid)
                    if moment >= since - START_TOLERANCE_SECONDS
                }
                return min(began, key=lambda thread: began[thread], default=None)
    return None


def _has_open(pid: int, file: os.stat_result) -> bool:
    """Whether the process has the file open, under whatever path it sees it."""
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), file):
                    return True
    return False


def _writers(pid: int) -> Iterator[tuple[int, float]]:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, psutil.Error):
                if (
                    Path(f"/proc/{pid}/task/{name}/comm")
                    .read_text(encoding="utf-8", errors="replace")
                    .startswith(_WRITER)
                ):
                    yield int(name), psutil.Process(int(name)).create_time()


def lower_thread(thread: int, nice: int) -> bool:
    """Gives a thread this nice value and the last place for the disk, where the system lets us.

    Returns whether it did.
    """
    try:
        if os.getpriority(os.PRIO_PROCESS, thread) < nice:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
            if sys.platform == "linux":
                psutil.Process(thread).ionice(psutil.IOPRIO_CLASS_BE, _LAST_LEVEL)
    except (OSError, psutil.Error) as error:
        log.debug("thread %d keeps its priority: %s", thread, error)
        return False
    return True


def in_background(nice: int, work: Callable[[Callable[[], bool]], Result]) -> Result:
    """Does `work` in a thread of lower priority and waits for it. Raises what it raises.

    `work` is given a function that says whether to stop: it does when the waiting is interrupted.
    It must start no process.
    """
    future: Future[Result] = Future()
    stop = threading.Event()

    def run() -> None:
        if nice and sys.platform == "linux":
            lower_thread(threading.get_native_id(), nice)
        try:
            future.set_result(work(stop.is_set))
        except BaseException as error:  # noqa: BLE001 - raised by `result` below
            future.set_exception(error)

    thread = threading.Thread(target=run, name="background", daemon=True)
    thread.start()
    try:
        return future.result()
    finally:
        stop.set()
        thread.join(_STOP_SECONDS)
