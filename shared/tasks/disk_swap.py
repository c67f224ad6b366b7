"""Putting new disks in the place of those of a VM that is off: all of them, or none.

Each new disk lies beside the old one, under a name that nobody else gives. The first old disk is
taken away first, and the first new one put in place last. In between VirtualBox does not start the
VM, for it has no such disk: so no guest ever runs on old and new disks together, whenever this
process is killed. What is to become of a swap that was broken off follows from which file is where,
by the note that was made before (`swap_note`); a file is known by its inode, whatever it is called.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from shared.host.errors import IllegalMoveError
from shared.host.notes import flush_directory
from shared.tasks.swap_note import Swap, SwapNote, SwappedDisk

_BRING_BACK: Final = (
    "mount their file system, or bring them back: the next command, or the next tick of the "
    "database worker, goes on"
)


class PresentDisks(StrEnum):
    """Which disks a VM has."""

    #: All old ones.
    OLD = "old"
    #: Not all of one kind: the first one is not there, so that the VM cannot be started.
    HALF = "half"
    #: All new ones.
    NEW = "new"


class SwapError(IllegalMoveError):
    """A disk is not where it must be."""


def present_disks(swap: Swap) -> PresentDisks:
    """Which disks the VM has now. Raises `SwapError` if nobody can say."""
    first = swap.disks[0]
    if first.after and _inode(first.place) == first.after:
        return PresentDisks.NEW
    if all(_inode(disk.place) == disk.before for disk in swap.disks):
        return PresentDisks.OLD
    return PresentDisks.HALF


def swap_disks(swap: Swap, settled: Callable[[], None]) -> None:
    """Puts the new disks in place, of which each is whole, and noted with its inode.

    `settled` is called when the VM cannot be started any more, and raises unless it is off and as
    it was. Whatever is raised, all old disks are in place again. Killed, it leaves one of
    `PresentDisks`. Raises `SwapError`.
    """
    first, *others = swap.disks
    for disk in swap.disks:
        if (_inode(disk.place), _inode(disk.new)) != (disk.before, disk.after):
            raise SwapError(f"{disk.place} is not the disk any more that it was")
    try:
        move_file(first.place, first.old)
        settled()
        for disk in others:
            move_file(disk.place, disk.old)
            move_file(disk.new, disk.place)
        move_file(first.new, first.place)
    except BaseException:
        put_back(swap)
        raise


def put_back(swap: Swap) -> None:
    """All old disks are in place again, those that are there already included.

    May be repeated after a crash. Raises `SwapError` unless each is in place then: something else
    is there, or it is away with its file system. The first one is not put back before all others
    are.
    """
    first, *others = swap.disks
    _take_away(first)
    for disk in others:
        _take_away(disk)
        _bring_back(disk)
    _bring_back(first)


def undo(swap: Swap, settled: Callable[[], None]) -> None:
    """Puts the old disks in the place of the new ones, of which each is in place.

    Like `swap_disks`, with the new disks for the old ones: whatever is raised, all of them are in
    place again. The swap is noted as being undone before.
    """
    swap_disks(swap.way_back, settled)


def remove_new(swap: Swap) -> None:
    """Removes the new disks, none of which is in place. Raises `SwapError`."""
    for disk in swap.disks:
        _unlink(disk.new)


def remove_old(swap: Swap) -> None:
    """Removes the old disks, none of which is in place.

    Raises `SwapError`, and removes none, if what is called so is something else.
    """
    for disk in swap.disks:
        _require_old(disk)
    for disk in swap.disks:
        _unlink(disk.old)


def left_of_old(swap: Swap) -> tuple[str, ...]:
    """The old disks that are still there, and those of which that cannot be said."""
    return tuple(disk.old for disk in swap.disks if _may_be_there(disk.old))


def resume(note: SwapNote, swap: Swap, when: str) -> Swap | None:
    """Makes of a swap that was broken off none, or a whole one: what is noted then.

    The old disks are put back unless all new ones are in place; while it is being undone, the new
    ones unless all old ones are. Nobody else works on it. Raises `SwapError`, and it stays noted,
    unless each disk was found; `ConfigurationError`.
    """
    if swap.done and not swap.undoing:
        return swap
    try:
        if swap.undoing:
            if present_disks(swap.way_back) is not PresentDisks.NEW:
                put_back(swap.way_back)
                return note.write(replace(swap, undoing=""))
        elif present_disks(swap) is PresentDisks.NEW:
            return note.write(replace(swap, done=when))
        else:
            put_back(swap)
        remove_new(swap)
    except SwapError as error:
        undoing = f"given its disks of before {swap.stamp} again"
        what = f"was being {undoing if swap.undoing else f'taken back to {swap.stamp}'}"
        raise SwapError(
            f"{swap.name} {what} when that was broken off, and it has not all its disks: "
            f"{error.message}",
            hint=f"{error.hint or _BRING_BACK}. If the VM is not wanted any more: remove "
            f"{note.path}",
        ) from None
    note.remove()
    return None


def inode_of(path: str) -> int:
    """What a file is known by. Raises `SwapError` if there is none."""
    found = _inode(path)
    if not found:
        raise SwapError(f"{path} is not there")
    return found


def sign_of(path: str) -> str:
    """By what it is seen that a file was written; empty if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _inode(path: str) -> int:
    """0 if nothing is there. Raises `SwapError` if nobody can say: where its directory is away."""
    try:
        return os.lstat(path).st_ino
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return 0
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise SwapError(f"{path} cannot be looked at: {error.strerror}") from None
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise SwapError(f"{folder} is away, where {os.path.basename(path)} belongs")
    return 0


def _may_be_there(path: str) -> bool:
    try:
        return _inode(path) != 0
    except SwapError:
        return True


def _take_away(disk: SwappedDisk) -> None:
    if disk.after and _inode(disk.place) == disk.after:
        move_file(disk.place, disk.new)


def _bring_back(disk: SwappedDisk) -> None:
    """The old disk is in place. Raises `SwapError` if it is not, and cannot be put there."""
    if _inode(disk.place) == disk.before:
        return
    if not _inode(disk.old):
        raise SwapError(
            f"{disk.place} is not there, or is another file, and there is no {disk.old}"
        )
    _require_old(disk)
    move_file(disk.old, disk.place)


def _require_old(disk: SwappedDisk) -> None:
    """Raises `SwapError` if something else is called like the old disk."""
    if _inode(disk.old) not in (0, disk.before):
        raise SwapError(
            f"{disk.old} is not the disk any more that was put there",
            hint=f"if it is the right one: make it {disk.place}; if it is not needed: remove it",
        )


def move_file(source: str, target: str) -> None:
    """Renames a file durably, over nothing. Raises `SwapError`."""
    if os.path.lexists(target):
        raise SwapError(
            f"{target} is there, where {source} belongs",
            hint="move it elsewhere, and give the command again",
        )
    try:
        os.rename(source, target)
        flush_directory(Path(target).parent)
    except OSError as error:
        raise SwapError(f"{source} cannot become {target}: {error.strerror}") from None


def _unlink(path: str) -> None:
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise SwapError(f"{path} cannot be removed: {error.strerror}") from None
