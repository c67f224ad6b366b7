"""A program of its own: reads the file systems of a copy, and says what it finds.

What the disks hold was written by guests, and the library that reads them is C: so this runs apart,
with bounded memory, writes no file, and may crash. What to do comes by standard input as one JSON
object; what is found goes to standard output (`coordinator.guest.frames`).
"""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coordinator.guest.frames import FrameSink, send
from coordinator.guest.place_names import spoken
from coordinator.guest.signatures import ContentKind
from coordinator.guest.systems import places
from shared.host.errors import CopyError, ExitCode, NotInCopyError, UsageError, VmBackupError
from shared.host.printable import quoted

if TYPE_CHECKING:
    from coordinator.guest.file_systems import FileEntry, GuestFileSystem
    from shared.ova.disk_reader import CopyReader

_DEEPEST: Final = 256


def main() -> None:
    """Does what standard input says."""
    job = json.load(sys.stdin.buffer)
    _bound(int(job["memory"]))
    out = sys.stdout.buffer
    try:
        for message, data in _answers(job, _Alive(out)):
            send(out, message, data)
        send(out, {"kind": "done"})
    except VmBackupError as error:
        kind = "usage" if error.exit_code == ExitCode.USAGE else "error"
        send(out, {"kind": kind, "text": error.message, "hint": error.hint})
    except MemoryError:
        send(out, {"kind": "error", "text": "reading it needs too much memory", "hint": ""})
    except BrokenPipeError:
        return  # whoever asked has ended
    except Exception as error:  # noqa: BLE001 - nobody reads a traceback of this process
        said = f"reading it failed: {type(error).__name__}: {error}"
        send(out, {"kind": "error", "text": said, "hint": ""})


def _bound(memory: int) -> None:
    """No file is written, and so much memory is all there is."""
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # not on every system
            resource.setrlimit(what, (limit, limit))


class _Alive:
    """Says every second that this process is at work, for whoever waits while there is nothing."""

    def __init__(self, out: FrameSink) -> None:
        self._out, self._next = out, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 1
            send(self._out, {"kind": "alive"})


def _answers(job: Mapping[str, Any], alive: _Alive) -> Iterator[tuple[dict[str, Any], bytes]]:
    from shared.ova.disk_reader import open_copy

    with open_copy(_path(job["ova"])) as copy:
        if job["what"] == "compare":
            from coordinator.guest.changes import changes

            with open_copy(_path(job["other"])) as other:
                for message in changes(copy, other, alive):
                    yield message, b""
            return
        if job["what"] == "systems":
            for message in _systems(copy, job["disk"]):
                yield message, b""
            return
        place, system, entry = _find(copy, job)
        yield {"kind": "at", **place, **_described(entry)}, b""
        if job["what"] == "get":
            yield from _get(system, entry, data=job["data"])
        else:
            yield from _list(system, entry, int(job["most"]))


def _path(text: str) -> Path:
    return Path(os.fsdecode(text.encode("utf-8", "surrogateescape")))


def _systems(copy: "CopyReader", disk: str) -> Iterator[dict[str, Any]]:
    found = False
    for place in places(copy, disk):
        found, kind = True, place.found.kind
        yield {
            "kind": "system",
            "place": place.name,
            "start": place.part.start,
            "size": place.part.size,
            "type": str(kind),
            "readable": kind.readable,
            "encrypted": kind.encrypted,
            "note": place.found.note,
            "name": place.disk.name,
            "listed": place.listed,
        }
    if disk and not found:
        raise UsageError(
            f"the copy has no disk or partition {disk}",
            hint=f"it has {len(copy.disks)} disks, numbered from 1: `files VM` without --disk "
            "shows what is in them",
        )


def _find(
    copy: "CopyReader", job: Mapping[str, Any]
) -> "tuple[dict[str, Any], GuestFileSystem, FileEntry]":
    """The one file system that has the path, and what lies there.

    Raises `UsageError` if several have it, `NotInCopyError` if none has, `CopyError` if it is where
    nothing can be read.
    """
    from coordinator.guest.file_systems import GuestFileSystem

    names = [name.encode("utf-8", "surrogateescape") for name in job["path"]]
    found, said, others = [], {}, {}
    certain = True
    for place in places(copy, job["disk"]):
        kind = place.found.kind
        if place.listed:
            continue
        if not kind.readable:
            why = (
                f": {place.found.note}" if kind is ContentKind.UNKNOWN and place.found.note else ""
            )
            others[place.name] = place.disk.problem or f"{kind} is not read{why}"
            continue
        try:
            system = GuestFileSystem(place.disk, place.part.start, place.part.size, kind)
            found.append((place, system, system.find(names)))
        except CopyError as error:
            said[place.name] = error.message
            certain = certain and isinstance(error, NotInCopyError)
    if len(found) > 1:
        which = ", ".join(f"{place.name} ({place.found.kind})" for place, _, _ in found)
        raise UsageError(
            f"several file systems have that: {which}",
            hint=f"say which one: --disk {found[0][0].name}",
        )
    if not found:
        each = [f"{spoken(name)}: {text}" for name, text in (said | others).items()]
        what = "; ".join(each) or "there is no such disk or partition"
        lists = f"`vmbackup-admin files {quoted(job['vm'])}`"
        if certain and not others:
            hint = f"{lists} lists its disks; with / behind it, what is in one"
            raise NotInCopyError(what, hint=hint)
        raise CopyError(what, hint=f"{lists} says how each disk can be read by other programs")
    place, system, entry = found[0]
    at = {"place": place.name, "type": str(place.found.kind), "note": place.found.note}
    return at, system, entry


def _described(entry: "FileEntry") -> dict[str, Any]:
    return {
        "name": _text(entry.name),
        "type_of_file": entry.type,
        "size": entry.size,
        "mode": entry.mode,
        "modified": entry.modified,
        "target": _text(entry.target),
        "problem": entry.problem,
    }


def _list(
    system: "GuestFileSystem", entry: "FileEntry", most: int
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """What is in a directory, `most` names of it: a guest can make millions.

    The rest is not even read.
    """
    if entry.type != "directory":
        yield {"kind": "entry", **_described(entry)}, b""
        return
    try:
        for number, each in enumerate(system.entries(entry)):
            if number == most:
                raise CopyError(
                    f"it has more than {most} names: these are the first ones, as they lie there; "
                    f"the others are left out. Name one, or fetch all with --get"
                )
            yield {"kind": "entry", **_described(each)}, b""
    except CopyError as error:
        yield {"kind": "problem", "path": [], "text": error.message}, b""


def _get(
    system: "GuestFileSystem", top: "FileEntry", *, data: bool
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """A file, or a directory with all below it. Each directory once, whatever leads to it."""
    seen: set[int] = set()
    waiting: list[tuple[list[str], FileEntry]] = [([], top)]
    while waiting:
        path, entry = waiting.pop()
        yield {"kind": "begin", "path": path, **_described(entry)}, b""
        problem = entry.problem
        try:
            if entry.type == "file" and data:
                for position, chunk in system.data(entry):
                    yield {"kind": "data", "position": position}, chunk
            elif entry.type == "directory" and (entry.address in seen or len(path) >= _DEEPEST):
                problem = "directories lead in a circle there"
            elif entry.type == "directory":
                seen.add(entry.address)
                for each in system.entries(entry):
                    child = [*path, _text(each.name)]
                    waiting.append((child, each))  # those before an error count
        except CopyError as error:
            problem = error.message
        yield {"kind": "end", "problem": problem}, b""


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


if __name__ == "__main__":
    main()
