"""What a shell completes: names of VMs and hosts, and stamps, as the state database has them.

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
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from shared.host.configuration_places import DEFAULT_PATHS
from shared.state.store.layout import generation_file, generation_name, generation_numbers

#: How long the NAS may take.
SECONDS: Final = 0.15
_LIMIT_BYTES: Final = 1 << 24
_ROW: Final = '{"'


class _Name(click.types.StringParamType):
    """A text of which a shell completes the names that there are."""

    def __init__(self, look: Callable[[click.Context, Path, Path], Iterable[str]]) -> None:
        self._look = look

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """See `click.ParamType.shell_complete`."""
        del param
        place = _place(ctx)
        found = within(lambda: self._look(ctx, *place)) if place else []
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


def _place(ctx: click.Context) -> tuple[Path, Path] | None:
    """The mount point and the archive, of the file that the commands would read."""
    named = ctx.find_root().params.get("config") or os.environ.get("VMBACKUP_CONFIG")
    candidates = [Path(named)] if named else DEFAULT_PATHS
    nas: dict[str, Any] = {}
    for candidate in candidates:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            found = tomllib.loads(candidate.expanduser().read_text(encoding="utf-8")).get("nas")
            nas = found if isinstance(found, dict) else {}
            break
    mountpoint = os.environ.get("NAS_MOUNTPOINT") or nas.get("mountpoint")
    archive = os.environ.get("ARCHIVE_DIR") or nas.get("archive_directory", "archive")
    if not isinstance(mountpoint, str) or not isinstance(archive, str):
        return None
    return Path(mountpoint), Path(mountpoint, archive)


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


def _vms(_ctx: click.Context, mountpoint: Path, _archive: Path) -> Iterable[str]:
    return [str(row["key"]) for row in _rows(mountpoint, "vms")]


def _hosts(_ctx: click.Context, mountpoint: Path, _archive: Path) -> Iterable[str]:
    return [str(row["name"]) for row in _rows(mountpoint, "nodes")]


def _stamps(ctx: click.Context, mountpoint: Path, archive: Path) -> Iterable[str]:
    """The stamps of the copies of the VM that was typed before."""
    # behind an option that lacks its value click has not taken the arguments apart yet
    vm = ctx.params.get("vm") or next(iter(ctx.args), None)
    directories = [row["directory"] for row in _rows(mountpoint, "vms") if row["key"] == vm]
    names: list[str] = []
    for directory in directories:
        if directory and "/" not in directory:
            for place in (mountpoint / directory, archive / directory):
                with contextlib.suppress(OSError):
                    names += os.listdir(place)
    return [name.removesuffix(".ova") for name in names if name.endswith(".ova") and name[0] != "."]


def _copies(ctx: click.Context, mountpoint: Path, archive: Path) -> Sequence[str]:
    return ["latest", "previous", *_stamps(ctx, mountpoint, archive)]


VM: Final = _Name(_vms)
HOST: Final = _Name(_hosts)
STAMP: Final = _Name(_stamps)
COPY: Final = _Name(_copies)
