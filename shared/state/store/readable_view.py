"""`vmtool-statedb`, for people and for tools that know version 1.0, whose format it has.

One `<vmname>:<status>` line a VM. It is derived from the newest generation, and nothing is read
from it: what somebody writes into it is kept beside it, and `vmbackup-admin statedb adopt` makes it
count.
"""

import contextlib
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from shared.host.errors import DatabaseDamagedError
from shared.nas.nas_errors import nas_error
from shared.nas.reading import read_file
from shared.state.contents import Contents
from shared.state.formats import require_known
from shared.state.states import State
from shared.state.store.generations import read_number
from shared.state.store.layout import names_in
from shared.state.store.operations import (
    KeepEditedView,
    ReadGeneration,
    ReadView,
    ReplaceView,
    Steps,
    WriteTemporary,
)
from shared.state.store.protocol import read_head
from shared.state.store.snapshot import Snapshot, decode

if TYPE_CHECKING:
    from shared.state.records import VmRecord

#: How far back the view is compared with older generations before it counts as edited by hand.
VIEW_MEMORY: Final = 128
#: How many generations may have been committed between an edit of the view and its discovery: it is
#: found by the next commit.
_AROUND: Final = 4
_EDITED: Final = re.compile(r"vmtool-statedb\.edited-(\d{1,18})-[0-9a-z-]+")
_ODD: Final = re.compile(
    r"[:%\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def escape(name: str) -> str:
    """`name` with `:`, `%`, line breaks, control and format characters percent-encoded.

    So each line has two fields.
    """
    return _ODD.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")),
        name,
    )


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return unquote(text, errors="surrogatepass")


def render(contents: Contents) -> bytes:
    """The whole file, sorted by name."""
    return "".join(
        f"{escape(key)}:{contents.vms[key].status}\n" for key in sorted(contents.vms)
    ).encode()


def parse(data: bytes) -> Mapping[str, State]:
    """Reads the file. Raises `DatabaseDamagedError`, which names every line that makes no sense."""
    result: dict[str, State] = {}
    wrong: list[str] = []
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, colon, status = line.rpartition(":")
        try:
            if not (colon and name):
                raise ValueError("no colon")
            key, state = unescape(name), State(status.strip())
            if key in result:
                raise ValueError("twice")
            result[key] = state
        except ValueError:
            wrong.append(f"  line {number}: {line[:80]!r}")
    if wrong:
        raise DatabaseDamagedError(
            "vmtool-statedb has lines that are not <vmname>:<status>:\n" + "\n".join(wrong),
            hint="correct or delete these lines and try again",
        )
    return result


def publish_view(name: str) -> Steps[bool]:
    """Brings `vmtool-statedb` up to the head.

    Answers whether somebody had edited it by hand (the edit is kept beside it).

    Writes first and looks at the head afterwards, so that the last writer always leaves what
    belongs to a head at least as new as its own; it never relies on reading back the replaced file,
    which clients may serve from a cache.
    """
    edited = yield from _set_edit_aside()
    if edited is None:
        return False
    for attempt in count():
        head = yield from read_head()
        temporary = f"{name}.view.{attempt}"
        yield from WriteTemporary(temporary, render(head.contents))
        yield from ReplaceView(temporary)
        after = yield from read_head()
        if after.generation == head.generation:
            return edited
    raise AssertionError("count() does not end")


def _set_edit_aside() -> Steps[bool | None]:
    """Keeps what is in `vmtool-statedb` if no generation looks like that.

    Answers whether it did; None if the view is up to date.

    The view is read before the head: what others publish meanwhile then belongs to a generation
    that is not newer than the head.
    """
    seen = 0
    while True:
        found = yield from ReadView()
        head = yield from read_head()
        require_known(head.contents.format)
        if found == render(head.contents):
            return None
        if found is None or (yield from _is_older_view(found, head)):
            return False
        if head.generation == seen:
            yield from KeepEditedView(head.generation, found)
            return True
        seen = (
            head.generation
        )  # look once more: a stale listing may have hidden the generation that it belongs to


def _is_older_view(found: bytes, head: Snapshot) -> Steps[bool]:
    for number in range(head.generation - 1, max(0, head.generation - VIEW_MEMORY), -1):
        data = yield from ReadGeneration(number)
        if data is None:
            return False
        if render(decode(data, number).contents) == found:
            return True
    return False


def edited_views(root: Path) -> list[str]:
    """The files that keep what somebody wrote into `vmtool-statedb`, oldest first."""
    found = [(int(match[1]), name) for name in names_in(root) if (match := _EDITED.fullmatch(name))]
    return [name for _, name in sorted(found)]


def edits(root: Path, name: str) -> tuple[Mapping[str, State], Mapping[str, State]]:
    """What somebody changed by editing `vmtool-statedb`, from the file that keeps the edit.

    And its lines that may only be old.

    Others may have committed between the edit and its discovery. A line counts as changed if it
    says what none of the generations around that moment said; a line that differs from the newest
    of them only is as likely to be what the editor found there. Raises `DatabaseDamagedError` for
    lines that are none, `NasError`.
    """
    try:
        edited = parse(read_file(root / name))
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
    match = _EDITED.fullmatch(name)
    newest = int(match[1]) if match else 0
    around: list[Mapping[str, VmRecord]] = []
    for number in range(newest, max(0, newest - _AROUND), -1):
        with contextlib.suppress(DatabaseDamagedError):
            snapshot = read_number(root, number)
            around += [snapshot.contents.vms] if snapshot else []
    said = {key: {vms[key].status for vms in around if key in vms} for key in edited}
    different = {
        key: state
        for key, state in edited.items()
        if not around or key not in around[0] or around[0][key].status != state
    }
    changed = {key: state for key, state in different.items() if state not in said[key]}
    return changed, {key: state for key, state in different.items() if key not in changed}
