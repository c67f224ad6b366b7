"""Old generations go into bundles, and old bundles go. As steps, like the commit protocol.

The rules:

* A generation goes from the history only when a bundle that has it, byte for byte, was brought to
  the disk under its name and read back from there by whoever removes it.
* A bundle is never changed and never replaced by another: each has a name of its own. Two hosts
  that bundle the same at once make two bundles that overlap.
* One that cannot be read, while others can, costs only itself: it is set aside, and never removed.
* What a bundle has is the history. A generation of that number that says something else was put
  there by a writer that came too late, and counts for nothing.
* Before a bundle goes for its age, an anchor is on the disk that says where the chain begins then.
  Bundles go oldest first, so what is kept has no gap.

Nothing is locked. Killed at any point, what is left is bundled at a later tick.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.host.errors import DatabaseDamagedError
from shared.state.store import bundle
from shared.state.store.anchor import Anchor
from shared.state.store.bundle import UNKNOWN, Bundle, BundleName, compact, unpack
from shared.state.store.bundle_packing import Packer
from shared.state.store.header import decode_header
from shared.state.store.history_operations import (
    KeepUnreadable,
    ListBundles,
    ListHistoric,
    PutAnchor,
    PutBundle,
    ReadHistoric,
    RemoveBundle,
    RemoveHistoric,
    SetHistoricAside,
    SyncBundle,
    Unreadable,
)
from shared.state.store.kept_generations import bundles_in
from shared.state.store.operations import Steps

#: So many generations are in a bundle, if they are not too long; fewer wait for others.
BUNDLE_SIZE: Final = 256
#: What is read for one bundle at most, so that a tick does a bounded piece.
_BYTES: Final = 256 << 20
#: A bundle ends when it has so many before compression. With one generation more it can still be
#: read back.
_ENOUGH: Final = bundle.LIMIT_BYTES // 4


def bundle_oldest(
    now: str,
    token: str,
    size: int = BUNDLE_SIZE,
    *,
    most_read: int = _BYTES,
    most_packed: int = _ENOUGH,
) -> Steps[int]:
    """Puts the `size` oldest generations of the history into a bundle, if there are so many.

    `now` is this host's time, as in generations, `token` eight random hexadecimal digits that are
    used for nothing else. A bundle ends behind the generation with which more than `most_read`
    bytes were read, or it has more than `most_packed` before compression. Returns how many files of
    generations went; 0 also if another host is at it. Raises `DatabaseDamagedError` if none can
    be read, or what was written cannot be read back; then nothing went.
    """
    numbers = yield from ListHistoric(size)
    if len(numbers) < size:
        return 0
    names = yield from ListBundles()
    went = yield from _finish_others(names, numbers)
    if went:
        return went
    found = _Gathered(Packer((yield from _before(names, numbers[0]))))
    gathered = yield from _gather(numbers, found, most_read, most_packed)
    if not gathered or names != (yield from ListBundles()):
        return 0
    # A host whose clock runs ahead says nothing of the age of a bundle; nor does this one's.
    past = [time for time in found.times if time <= now]
    name, packed = found.packer.finish(max(past or found.times, default=""), token)
    yield from PutBundle(name, packed)
    went, others = yield from _remove_kept(name, found.digests)
    if others:
        raise _unlike(name, "it is not what was written")
    for number in found.unreadable:
        yield from KeepUnreadable(number)
    return went + len(found.unreadable)


@dataclass(slots=True)
class _Gathered:
    """What goes into a bundle, and the numbers of what cannot be read."""

    packer: Packer
    digests: dict[int, bytes] = field(default_factory=dict)
    times: list[str] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)


def _gather(numbers: Sequence[int], into: _Gathered, read_limit: int, limit: int) -> Steps[bool]:
    """Reads these generations, as many as go into a bundle. False if another host is faster.

    Raises `DatabaseDamagedError` if none can be read: then it is hardly their fault.
    """
    read, why = 0, ""
    for number in numbers:
        data = yield from ReadHistoric(number)
        if data is None:
            return False
        if isinstance(data, Unreadable):
            why = data.why
            into.unreadable += [] if data.by_this_user else [number]
            continue
        time = _committed(number, data)
        into.packer.add(number, data, damaged=time is None)
        into.times += [time] if time else []
        into.digests[number] = _digest(data)
        read += len(data)
        if read > read_limit or into.packer.size > limit:
            break
    if not into.digests:
        raise DatabaseDamagedError(
            f"none of the {len(numbers)} oldest generations can be read: {why}",
            hint="nothing was removed; look at the disk of the NAS, and at who may read them",
        )
    return True


def remove_old(limit: str, when: str, node: str) -> Steps[int]:
    """Removes the bundles whose newest commit was made before `limit`; returns how many.

    They go oldest first, up to the first that is younger. `when` and `node` are for the anchor.
    Times are as in generations.
    """
    names = yield from ListBundles()
    due = _older(names, compact(limit))
    if not due:
        return 0
    last = max(due, key=lambda name: name.last)
    checksum = yield from _last_checksum(last)
    yield from PutAnchor(last.last, Anchor(last.last, checksum, when, node).render())
    for name in due:
        yield from RemoveBundle(name)
    return len(due)


def has_older(root: Path, limit: str) -> bool:
    """Whether `remove_old` has something to do: by a listing."""
    return bool(_older(bundles_in(root), compact(limit)))


def _older(names: Sequence[BundleName], limit: str) -> list[BundleName]:
    """Those before the first that is not older. One of which that is not known follows the next."""
    young = next((at for at, name in enumerate(names) if limit <= name.committed != UNKNOWN), None)
    due = list(names[:young])
    while due and due[-1].committed == UNKNOWN:
        due.pop()
    return due


def _last_checksum(name: BundleName) -> Steps[str]:
    """The checksum of the last generation in a bundle; empty if that cannot be read."""
    data = yield from SyncBundle(name)
    found = _readable(name, data or b"")
    try:
        return decode_header((found and found.generation(name.last)) or b"", name.last)[1]
    except DatabaseDamagedError:
        return ""


def _committed(number: int, data: bytes) -> str | None:
    """When a generation was committed; None if it is damaged."""
    try:
        return decode_header(data, number)[0].committed
    except DatabaseDamagedError:
        return None


def _finish_others(names: Sequence[BundleName], numbers: Sequence[int]) -> Steps[int]:
    """Removes the files of generations that are in a bundle: somebody was killed in between."""
    went = 0
    for name in names:
        digests = {}
        for number in numbers if name.first <= numbers[-1] and name.last >= numbers[0] else ():
            if not name.first <= number <= name.last:
                continue
            data = yield from ReadHistoric(number)
            if isinstance(data, bytes):
                digests[number] = _digest(data)
        if digests:
            try:
                gone, others = yield from _remove_kept(name, digests)
            except DatabaseDamagedError:
                continue  # what is in it is lost: these files are not
            for number in others:
                yield from SetHistoricAside(number)
            went += gone + len(others)
    return went


def _remove_kept(name: BundleName, digests: Mapping[int, bytes]) -> Steps[tuple[int, list[int]]]:
    """Removes the files of those generations that the bundle has, as it is on the disk.

    Returns how many, and of which numbers the bundle has something else.
    """
    data = yield from SyncBundle(name)
    if data is None:
        raise _unlike(name, "it is not there")
    try:
        kept = {number: _digest(each) for number, each in unpack(name, data).generations()}
    except ValueError as error:
        raise _unlike(name, str(error)) from None
    same = [number for number, digest in digests.items() if kept.get(number) == digest]
    for number in same:
        yield from RemoveHistoric(number)
    return len(same), [number for number in digests if number in kept and number not in same]


def _before(names: Sequence[BundleName], number: int) -> Steps[tuple[int, bytes] | None]:
    """The generation before this one, out of the bundle that ends with it."""
    for name in names:
        if name.last == number - 1 and (data := (yield from SyncBundle(name))):
            found = _readable(name, data)
            if found is not None and number - 1 not in found.damaged:
                with contextlib.suppress(DatabaseDamagedError):
                    return number - 1, found.generation(number - 1) or b""
    return None


def _readable(name: BundleName, data: bytes) -> Bundle | None:
    try:
        return unpack(name, data)
    except ValueError:
        return None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _unlike(name: BundleName, what: str) -> DatabaseDamagedError:
    return DatabaseDamagedError(
        f"the bundle {name} of the history was written and cannot be read back: {what}",
        hint="nothing was removed; the next tick tries again. Look at the disk of the NAS",
    )
