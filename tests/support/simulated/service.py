"""VBoxSVC's part of an export.

A process of its own that writes the file to the end, whatever becomes of the client.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from errno import ENOSPC
from typing import NoReturn

from tests.support.simulated.faults import MachineFaults
from tests.support.simulated.machines import new_uuid
from tests.support.simulated.ova import Plan, write, write_beside

_FULL = (
    "Could not create the exported medium '{0}'.\nVMDK: cannot write compressed data block "
    "in './{0}' (VERR_DISK_FULL)"
)
_UNREADABLE = (
    "Could not create the exported medium '{0}'.\nVDI: error reading image (VERR_READ_ERROR)"
)
_TAKEN = "RTVfsFsStrmPushFile failed for '{}' (VERR_ALREADY_EXISTS)"
_CANCELLED = "Could not create the exported medium '{0}' (VERR_CANCELLED)"


class _Ended(Exception):  # noqa: N818 - a result
    """How an export ended before its end."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(word)
        self.word, self.text = word, text


def run(home: str, plan: Plan, faults: MachineFaults, reports: int) -> NoReturn:
    """Becomes the service process.

    Says on `reports` when it holds the disks, then how far it is, then how it ended.
    """
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.closerange(3, reports)
        os.closerange(reports + 1, 256)
        cancelled: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: cancelled.append(number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        record, _lock = _take_record(home, plan)
        _send(reports, b"\n")
        result = _export(plan, faults, reports, lambda: bool(cancelled))
        os.unlink(record)  # before the client hears of it: then the disks are free
        _report(reports, **result)
        status = 0
    except BaseException:  # noqa: BLE001 - there is nobody else to tell
        with open(os.path.join(home, "service-error.txt"), "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(status)


def _take_record(home: str, plan: Plan) -> tuple[str, int]:
    """The file that says which disks are read; locked for as long as this process lives."""
    folder = os.path.join(home, "exports")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{new_uuid()}.json")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    media = [medium.uuid for system in plan.systems for chain in system.chains for medium in chain]
    os.write(
        descriptor, json.dumps({"pid": os.getpid(), "media": media, "target": plan.target}).encode()
    )
    return path, descriptor


def _send(reports: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # the client was killed: nobody listens any more
        os.write(reports, data)


def _report(reports: int, **values: str | int) -> None:
    _send(reports, json.dumps(values).encode() + b"\n")


def _export(
    plan: Plan, faults: MachineFaults, reports: int, cancelled: Callable[[], bool]
) -> dict[str, str]:
    """Writes the file, and removes it if that fails; the result for the client."""
    disk = (plan.disk_names() or [""])[0]
    try:
        _write(plan, faults, cancelled, lambda percent: _report(reports, percent=percent))
    except FileExistsError as error:
        time.sleep(
            0.005
        )  # as the real one, which lets go of the disks before it removes what it wrote
        os.unlink(plan.target)
        name = os.path.relpath(error.filename, os.path.dirname(plan.target))
        return {"result": "failed", "word": "VBOX_E_IPRT_ERROR", "text": _TAKEN.format(name)}
    except (_Ended, OSError) as error:
        if plan.target.endswith(".ova"):
            os.unlink(plan.target)
        ended = (
            error
            if isinstance(error, _Ended)
            else _Ended(
                "VBOX_E_FILE_ERROR", _FULL.format(disk) if error.errno == ENOSPC else str(error)
            )
        )
        return {"result": "failed", "word": ended.word, "text": ended.text}
    if faults.export_lie == "error_on_stderr":
        return {"result": "lie", "text": _UNREADABLE.format(disk)}
    return {"result": "done"}


def _write(
    plan: Plan, faults: MachineFaults, cancelled: Callable[[], bool], show: Callable[[int], None]
) -> None:
    """Writes the appliance, at the pace and with the faults that are set."""
    name = (plan.disk_names() or [""])[0]
    begun = time.monotonic()
    shown = 0
    show(0)
    with open(os.open(plan.target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
        os.fchmod(file.fileno(), 0o600)
        pieces = (
            write(file, plan, manifest=faults.export_lie != "no_manifest")
            if plan.target.endswith(".ova")
            else write_beside(file, plan)
        )
        for percent in pieces:
            file.flush()
            _meet_faults(faults, percent, name)
            pace = max(
                faults.export_seconds * percent / 100,
                file.tell() / (faults.export_bytes_per_second or float("inf")),
            )
            hangs = faults.export_hangs_at is not None and percent >= faults.export_hangs_at
            while hangs or time.monotonic() - begun < pace:
                _stop_if(cancelled(), name)
                time.sleep(0.01)
            _stop_if(cancelled(), name)
            for ten in range(shown + 10, int(percent) + 1, 10):
                show(ten)
                shown = ten
        for ten in range(shown + 10, 101, 10):
            show(ten)
    _lie(plan.target, faults.export_lie)


def _stop_if(cancelled: bool, name: str) -> None:
    if cancelled:
        raise _Ended("CANCELED", _CANCELLED.format(name))


def _meet_faults(faults: MachineFaults, percent: float, name: str) -> None:
    def reached(point: float | None) -> bool:
        return point is not None and percent >= point

    if reached(faults.export_service_dies_at):
        os.kill(os.getpid(), signal.SIGKILL)
    if reached(faults.export_disk_full_at):
        raise _Ended("VBOX_E_FILE_ERROR", _FULL.format(name))
    if reached(faults.export_fails_at):
        raise _Ended("VBOX_E_FILE_ERROR", _UNREADABLE.format(name))


def _lie(target: str, lie: str) -> None:
    if lie == "no_file":
        os.unlink(target)
    elif lie in ("truncated", "damaged"):
        size = os.path.getsize(target)
        with open(target, "r+b") as file:
            if lie == "truncated":
                file.truncate(size // 2)
            else:
                file.seek(size // 2)
                byte = file.read(1)
                file.seek(size // 2)
                file.write(bytes([byte[0] ^ 1]))
