"""What a shell completes: names of VMs, hosts and holds, stamps, and what runs from copies here.

Asked for at each press of the key, so nothing is imported but what the command itself needs, and a
NAS that does not answer is given up after a moment, in silence. What it answers is a help in typing
and decides nothing: the newest generation is read as text, and nothing of it is checked.
"""

import contextlib
import json
import os
import select
import shlex
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from shared.host.configuration_places import DEFAULT_PATHS, usual_state_directory
from shared.state.store.layout import generation_file, generation_name, generation_numbers

#: How long the NAS may take.
SECONDS: Final = 0.15
_LIMIT_BYTES: Final = 1 << 24
_ROW: Final = '{"'


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the NAS is mounted, where the archive is, and what this host notes for itself."""

    mountpoint: Path
    archive: Path
    state: Path


class _Name(click.types.StringParamType):
    """A text of which a shell completes the names that there are."""

    def __init__(self, look: Callable[[click.Context, _Place], Iterable[str]]) -> None:
        self._look = look

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """See `click.ParamType.shell_complete`."""
        del param
        place = _place(ctx)
        found = within(lambda: self._look(ctx, place)) if place else []
        names = sorted(
            {name for name in found if name.startswith(incomplete) and name.isprintable()}
        )
        return [CompletionItem(_typed(name)) for name in names]


def within(look: Callable[[], Iterable[str]], seconds: float = SECONDS) -> list[str]:
    """What `look` finds, nothing if it takes longer or fails: a child process asks the NAS.

    One that hangs there is left behind, with nothing of this process's that anybody waits for.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            nothing = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(nothing, standard)
            os.close(reading)
            with open(writing, "w", encoding="utf-8", errors="replace") as pipe:
                pipe.write(json.dumps(list(look())))
        os._exit(0)
    os.close(writing)
    data = _read(reading, time.monotonic() + seconds)
    os.close(reading)
    with contextlib.suppress(OSError):
        os.kill(child, 9)
    try:
        return [str(name) for name in json.loads(data)]
    except ValueError:
        return []


def _read(pipe: int, end: float) -> bytes:
    data = b""
    while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(pipe, 1 << 16)
        if not piece:
            break
        data += piece
    return data


def _place(ctx: click.Context) -> _Place | None:
    """What the file says that the commands would read; None without a mount point."""
    named = ctx.find_root().params.get("config") or os.environ.get("VMBACKUP_CONFIG")
    candidates = [Path(named)] if named else DEFAULT_PATHS
    nas: dict[str, Any] = {}
    host: dict[str, Any] = {}
    for candidate in candidates:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            found = tomllib.loads(candidate.expanduser().read_text(encoding="utf-8-sig"))
            nas, host = (_table(found, name) for name in ("nas", "host"))
            break
    mountpoint = os.environ.get("NAS_MOUNTPOINT") or nas.get("mountpoint")
    archive = os.environ.get("ARCHIVE_DIR") or nas.get("archive_directory", "archive")
    state = host.get("state_directory") or str(usual_state_directory())
    if not (isinstance(mountpoint, str) and isinstance(archive, str) and isinstance(state, str)):
        return None
    with contextlib.suppress(RuntimeError):  # no home directory
        return _Place(Path(mountpoint), Path(mountpoint, archive), Path(state).expanduser())
    return None


def _table(document: dict[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _typed(name: str) -> str:
    """As it is typed: bash puts in what it is given, the other shells quote by themselves."""
    bash = any(
        key.endswith("_COMPLETE") and key.startswith("_VMBACKUP") and value == "bash_complete"
        for key, value in os.environ.items()
    )
    return shlex.quote(name) if bash else name


def _rows(mountpoint: Path, section: str) -> Iterator[dict[str, Any]]:
    """The rows of one section of the newest generation; nothing that cannot be read."""
    directory = mountpoint / "vmstate/gen"
    newest = max(generation_numbers(os.listdir(directory)))
    with open(generation_file(directory / generation_name(newest)), "rb") as file:
        lines = file.read(_LIMIT_BYTES).decode("utf-8", "replace").split("\n")
    wanted = False
    for line in lines:
        if not line.startswith(_ROW):
            wanted = line.startswith(f"{section} ")
        elif wanted:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _vms(_ctx: click.Context, place: _Place) -> Iterable[str]:
    return [str(row["key"]) for row in _rows(place.mountpoint, "vms")]


def _locks(_ctx: click.Context, place: _Place) -> Iterable[str]:
    """The VMs, and the holds on their copies."""
    for row in _rows(place.mountpoint, "vms"):
        yield str(row["key"])
        holds = row.get("holds")
        for hold in holds if isinstance(holds, list) else ():
            yield f"{hold['node']}:{hold['name']}"


def _booted(_ctx: click.Context, place: _Place) -> Iterable[str]:
    """What runs from a copy on this host."""
    for file in place.state.glob("boot-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            yield str(json.loads(file.read_bytes())["name"])


def _hosts(_ctx: click.Context, place: _Place) -> Iterable[str]:
    return [str(row["name"]) for row in _rows(place.mountpoint, "nodes")]


def _stamps(ctx: click.Context, at: _Place) -> Iterable[str]:
    """The stamps of the copies of the VM that was typed before."""
    # behind an option that lacks its value click has not taken the arguments apart yet
    vm = ctx.params.get("vm") or next(iter(ctx.args), None)
    directories = [row["directory"] for row in _rows(at.mountpoint, "vms") if row["key"] == vm]
    names: list[str] = []
    for directory in directories:
        if directory and "/" not in directory:
            for place in (at.mountpoint / directory, at.archive / directory):
                with contextlib.suppress(OSError):
                    names += os.listdir(place)
    return [name.removesuffix(".ova") for name in names if name.endswith(".ova") and name[0] != "."]


def _copies(ctx: click.Context, place: _Place) -> Sequence[str]:
    return ["latest", "previous", *_stamps(ctx, place)]


VM: Final = _Name(_vms)
LOCK: Final = _Name(_locks)
BOOTED: Final = _Name(_booted)
HOST: Final = _Name(_hosts)
STAMP: Final = _Name(_stamps)
COPY: Final = _Name(_copies)
