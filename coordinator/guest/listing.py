"""What is in the disks of a copy, as a list: file systems, or what is at a path in one."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from coordinator import text
from coordinator.guest.advice import advice
from coordinator.guest.request import Request, tell_note
from shared.host.errors import ExitCode
from shared.output import print_json, warn


def systems(request: Request) -> ExitCode:
    """Shows disks and partitions, and what each holds."""
    found = request.reader.systems()
    for row in found:
        how = advice(row["type"], request.vm, row["place"])
        row["advice"] = "" if row.pop("listed") else how
    if request.as_json:
        shown = [_without(row, "kind", "bytes") for row in found]
        print_json({"schema": 1, **request.document(), "systems": shown})
        return ExitCode.DONE
    text.print_table(
        ["DISK", "SIZE", "HOLDS", "READABLE", "NOTE"],
        [
            [
                row["place"],
                text.size(row["size"]),
                row["type"],
                "yes" if row["readable"] else "encrypted" if row["encrypted"] else "no",
                "; ".join(filter(None, (row["note"], row["advice"]))),
            ]
            for row in found
        ],
    )
    return ExitCode.DONE


def entries_at(request: Request) -> ExitCode:
    """Shows what is at the path; `SOME_FAILED` if not all of it could be read."""
    at: Mapping[str, Any] = {}
    entries, problems = [], []
    for message in request.reader.list(request.names):
        if message["kind"] == "at":
            at = message
        elif message["kind"] == "entry":
            entries.append(_entry(message))
        else:
            problems.append(str(message["text"]))
    tell_note(at)
    entries.sort(key=lambda entry: entry["name"])
    if request.as_json:
        found = {"disk": at["place"], "path": request.path, "entries": entries}
        print_json({"schema": 1, **request.document(), **found, "problems": problems})
    else:
        _print(entries)
        for problem in problems:
            warn(f"{request.path}: not all could be read: {problem}")
    return ExitCode.SOME_FAILED if problems else ExitCode.DONE


def _print(entries: Iterable[Mapping[str, Any]]) -> None:
    text.print_table(
        ["TYPE", "SIZE", "MODIFIED", "NAME"],
        [
            [
                entry["type"],
                text.size(entry["size"]) if entry["type"] == "file" else "",
                _moment(entry["modified"]),
                entry["name"]
                + (f" -> {entry['target']}" if entry["target"] else "")
                + (f" ({entry['problem']})" if entry["problem"] else ""),
            ]
            for entry in entries
        ],
    )


def _entry(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": message["name"],
        "type": message["type_of_file"],
        "size": message["size"],
        "mode": f"{message['mode']:04o}",
        "modified": message["modified"],
        "target": message["target"],
        "problem": message["problem"],
    }


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "?"


def _without(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
