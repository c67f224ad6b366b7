"""Putting a new state database in the place of one that cannot be used.

The new one is made whole in a hidden directory beside `vmstate`; then `vmstate` gets a name of its
own, and the new one its name. Killed at any point, the old one is there, whole, under the one name
or the other; nothing of it is ever removed but its reserve, which is there for its room alone.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from shared.host.clock import Clock
from shared.host.errors import LockedError, NasError
from shared.host.waits import pausing
from shared.nas.nas_errors import nas_error, reported
from shared.nas.reading import list_fresh, opened
from shared.nas.writing import remove_tree, sync_directory
from shared.state.store import reserve

#: What a database that was set aside is called: then the moment (UTC), and random digits.
ASIDE: Final = "vmstate.aside-"
#: What the new one is called while it is made: then digits that tell hosts apart.
_NEW: Final = ".vmbackup-new-database-"
#: An SMB server refuses while a file below is open, and some clients close late.
_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 0.5
_PASSING: Final = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.ESTALE, errno.EAGAIN})
#: So long nothing is touched in a new database whose making was killed.
_KILLED_SECONDS: Final = 24 * 3600.0
_TAKEN: Final = frozenset({errno.EEXIST, errno.ENOTEMPTY})


def databases_set_aside(parent: Path) -> list[Path]:
    """The databases that were set aside below `parent`, the newest first."""
    with reported(f"look into {parent}"):
        names = [name for name in list_fresh(parent) if name.startswith(ASIDE)]
    return [parent / name for name in sorted(names, reverse=True)]


@contextlib.contextmanager
def new_directory(parent: Path, host: str) -> Iterator[Path]:
    """A hidden name below `parent`, for the one process of `host` that makes a database there.

    What a killed one has left under it is removed before, and afterwards what did not get its own
    name. Raises `NasError`.
    """
    path = parent / f"{_NEW}{host}"
    with reported(f"remove {path}"):
        _remove(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        remove_tree(path)


def sweep(parent: Path, now: Callable[[], float]) -> list[str]:
    """Removes below `parent` what nobody will finish or use; returns the names.

    New databases whose making was killed on a host that did not repeat it, when nothing in them was
    touched for a day; and the reserves of databases that were set aside, which say nothing and take
    room. `now`: the NAS's time. What cannot be removed is left. Raises OSError if nothing can be
    listed.
    """
    names = list_fresh(parent)
    left = [parent / name for name in names if name.startswith(_NEW)]
    spent = [parent / name / reserve.NAME for name in names if name.startswith(ASIDE)]
    swept = [f"{path.parent.name}/{path.name}" for path in spent if _unlinked(path)]
    if left:
        before = now() - _KILLED_SECONDS
        swept += [path.name for path in left if _touched(path) < before and _gone(path)]
    return swept


def _unlinked(path: Path) -> bool:
    try:
        with opened(path.parent) as directory:
            os.unlink(path.name, dir_fd=directory)
    except OSError:
        return False
    return True


def _touched(path: Path) -> float:
    """When something was last made or removed in it; never, for what is no directory of ours."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            return float("inf")
        return max(each.lstat().st_mtime for each in (path, *path.iterdir()))
    except OSError:
        return float("inf")


def _gone(path: Path) -> bool:
    with contextlib.suppress(OSError):
        _remove(path)
        return True
    return False


def put_in_place(
    new: Path, state: Path, now: datetime, clock: Clock, require_unusable: Callable[[Path], None]
) -> Path | None:
    """Sets `state` aside, if it is there, and gives its name to the directory `new`.

    Returns where the old one is, without its reserve. What was set aside is looked at once more, by
    `require_unusable`: another host may have been faster; what it made is put back. Raises that,
    `LockedError` if somebody else made a database in between, `NasError` if the NAS does not let
    us: then the old one has its name again.
    """
    aside = state.with_name(f"{ASIDE}{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}")
    old = aside if _rename(state, aside, clock) else None
    try:
        if old is not None:
            require_unusable(old)
        _rename_new(new, state, clock)
    except Exception:
        if old is not None:
            _put_back(old, state, clock)
        raise
    with reported(f"bring {state} to the disk"):
        sync_directory(state.parent)
    if old is not None:
        _unlinked(old / reserve.NAME)
    return old


def _rename_new(new: Path, state: Path, clock: Clock) -> None:
    try:
        renamed = _rename(new, state, clock)
    except NasError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _TAKEN:
            raise LockedError(
                f"somebody has made a state database in {state} meanwhile",
                hint="vmbackup-admin status shows what is in it",
            ) from error
        raise
    if not renamed:
        raise NasError(
            f"{new} is not there any more",
            hint="another process of this host removed it? Give the command again",
        )


def _put_back(old: Path, state: Path, clock: Clock) -> None:
    """Gives the old one its name again, if nobody has taken that: it is whole in either case."""
    with contextlib.suppress(NasError):
        if state.name not in list_fresh(state.parent):
            _rename(old, state, clock)


def _rename(source: Path, target: Path, clock: Clock) -> bool:
    """Renames a directory; False if it is not there. Raises `NasError`.

    A refusal that passes by itself is waited for.
    """
    what = f"the NAS to let {source} be renamed"
    pause = pausing(clock.sleep, what, _ATTEMPTS * _PAUSE_SECONDS)
    for attempt in range(_ATTEMPTS):
        list_fresh(source.parent)
        try:
            os.rename(source, target)
        except FileNotFoundError:  # or it was renamed, and the answer was lost
            return target.name in list_fresh(target.parent)
        except OSError as error:
            if error.errno not in _PASSING or attempt == _ATTEMPTS - 1:
                refused = nas_error(error, f"rename {source} to {target.name}")
                hint = (
                    "nothing was changed. Is a file below it open on some host, or is it a mount "
                    "of its own? Stop what uses it, and give the command again"
                )
                raise NasError(refused.message, hint=hint) from error
            pause(_PAUSE_SECONDS)
        else:
            return True
    raise AssertionError("the loop returns or raises")
