"""Files of a guest are fetched, or it is said what would be."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from coordinator import text
from coordinator.guest.fetching import Fetched, Fetching, destination, local_name
from coordinator.guest.place_names import folder_name
from coordinator.guest.request import Request, tell_note
from shared.host.errors import ExitCode, UsageError
from shared.output import answer, print_json, say, warn

#: Of many problems so many are said, one by one; all of them with --json.
_SAID: Final = 20


def get(request: Request, folder: Path) -> ExitCode:
    """Fetches what is at the path; `SOME_FAILED` if not all of it could be read."""
    messages = request.reader.get(request.names, data=True)
    at, _ = next(messages)
    _refuse_special(request, at)
    tell_note(at)
    umask = os.umask(0o077)
    os.umask(umask)
    name = _name(request, at)
    try:
        with Fetching(folder, name, kind=str(at["type"]), umask=umask) as fetching:
            for message, data in messages:
                fetching.take(message, data)
                done = fetching.result
                text.progress(
                    f"{request.vm}: {text.counted(done.files, 'file')}, {text.size(done.size)}"
                )
    finally:
        text.progress("")
    return _tell(request, at, fetching.result)


def foresee(request: Request, folder: Path) -> ExitCode:
    """Says what would be fetched, and where to. Writes nothing."""
    messages = request.reader.get(request.names, data=False)
    at, _ = next(messages)
    _refuse_special(request, at)
    place = destination(folder, _name(request, at))
    files = size = 0
    for message, _ in messages:
        if message["kind"] == "begin" and message["type_of_file"] == "file":
            files, size = files + 1, size + int(message["size"])
    answer(
        {
            **request.document(),
            "disk": at["place"],
            "path": request.path,
            "place": str(place),
            "files": files,
            "size": size,
            "dry_run": True,
        },
        f"would fetch {text.counted(files, 'file')} ({text.size(size)}) "
        f"of {request.stamp} to {place}",
        as_json=request.as_json,
    )
    return ExitCode.DONE


def _tell(request: Request, at: Mapping[str, Any], done: Fetched) -> ExitCode:
    what = {
        "disk": at["place"],
        "path": request.path,
        "place": str(done.place),
        "files": done.files,
        "directories": done.directories,
        "size": done.size,
    }
    lists = {"left_out": done.left_out, "problems": done.problems, "renamed": done.renamed}
    if request.as_json:
        shown = {
            name: [{"path": path, "text": words} for path, words in found.items()]
            for name, found in lists.items()
        }
        print_json({"schema": 1, **request.document(), **what, **shown})
        return ExitCode.SOME_FAILED if done.problems else ExitCode.DONE
    files = f"{text.counted(done.files, 'file')} ({text.size(done.size)})"
    say(f"fetched {files} of {request.stamp} to {done.place}")
    for title, found in (("left out", done.left_out), ("other name here", done.renamed)):
        _few(title, found, say)
    _few("not read", done.problems, warn)
    return ExitCode.SOME_FAILED if done.problems else ExitCode.DONE


def _few(title: str, found: Mapping[str, str], tell: Callable[[str], None]) -> None:
    for path in list(found)[:_SAID]:
        tell(f"{title}: {path}: {found[path]}")
    if len(found) > _SAID:
        tell(f"{title}: {len(found) - _SAID} more (--json lists all)")


def _refuse_special(request: Request, at: Mapping[str, Any]) -> None:
    if at["type_of_file"] == "link":
        raise UsageError(
            f"{request.path} is a link to {at['target']}, and links are not followed",
            hint="ask for what it leads to",
        )
    if at["type_of_file"] not in ("file", "directory"):
        raise UsageError(
            f"{request.path} is no file ({at['type_of_file']})",
            hint="files and directories are fetched; a device or a socket has no contents",
        )


def _name(request: Request, at: Mapping[str, Any]) -> str:
    """What it is called in the destination."""
    return local_name(str(at["name"])) if request.names else folder_name(str(at["place"]))
