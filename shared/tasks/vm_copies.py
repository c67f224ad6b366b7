"""A VM's copies, looked up in its directories: which is the newest, which are damaged or disputed.

And what looks at them or changes them: it holds the VM meanwhile (`hold`), and commits in the end
which copies were found (`commit_found`).
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal

from shared.copies import catalogue, chronology
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import Rehearsed
from shared.host.clock import age, timestamp
from shared.host.errors import NasError
from shared.host.printable import quoted
from shared.site import Site
from shared.state.hold import merged
from shared.state.records import CopyRecord, OtherEngine, RehearsalRecord, VmRecord
from shared.state.rules import claims
from shared.state.rules import copies as copies_rules
from shared.state.rules.copies import FoundCopies
from shared.state.sessions.holding import Holding, holding
from shared.state.sessions.session import Session
from shared.state.states import State

#: Characters that the database keeps of each thing that a sidecar says of a rehearsal.
_LONGEST: Final = 300


def copies(site: Site, record: VmRecord) -> list[tuple[catalogue.Copy, bool]]:
    """All copies of a VM, good or not, oldest first, and whether they are archived.

    Not those of another VM. Raises `NasError`.
    """
    return _in(site.directories(record), record)


def in_all_places(site: Site, record: VmRecord) -> list[catalogue.Copy]:
    """Like `copies`, also those that lie in the archive although the VM is not ARCHIVED.

    A VM that was forgotten when it was, or whose move was broken off, has such ones. Where the
    archive cannot be looked at, that matters for an ARCHIVED VM alone. Raises `NasError`.
    """
    places = dict(site.directories(record)) | dict(site.all_directories(record)[0])
    return [copy for copy, _ in _in(places.items(), record)]


def _in(places: Iterable[tuple[Path, bool]], record: VmRecord) -> list[tuple[catalogue.Copy, bool]]:
    found = [
        (copy, archived)
        for place, archived in places
        for copy in catalogue.read(place, record.uuid).copies
    ]
    archived_ones = {id(copy) for copy, archived in found if archived}
    return [
        (copy, id(copy) in archived_ones)
        for copy in chronology.oldest_first(copy for copy, _ in found if copy.present and copy.ours)
    ]


def require_directory(site: Site, record: VmRecord) -> None:
    """Makes sure that an archived VM with a last copy has a directory in the archive, or copies.

    Raises `NasError`.
    """
    if record.status != State.ARCHIVED or record.last_copy is None or not record.directory:
        return
    place = site.archive_directory(record)
    if not os.path.isdir(place) and not copies(site, record):
        raise NasError(
            f"the last copy of {record.key}, which is ARCHIVED, is {record.last_copy.stamp}, "
            f"and there is no directory {place}",
            hint="is the right archive mounted, is nas.archive_directory right? "
            f"If the copies were deleted on purpose: {forget_command(record.key)}",
        )


def require_archived(site: Site, record: VmRecord) -> None:
    """Raises `NasError` if all good copies of an archived VM that is not moved are elsewhere."""
    require_directory(site, record)
    if record.status != State.ARCHIVED or record.last_copy is None or record.moving:
        return
    found = [archived for copy, archived in copies(site, record) if copy.good]
    if found and not any(found):
        name = quoted(record.key)
        raise NasError(
            f"{record.key} is ARCHIVED in the state database, and all of its good copies lie in "
            f"{site.directory(record)}, none in the archive",
            hint=f"was it activated after that was written? `vmbackup-admin activate {name}`, and "
            f"it is backed up again; to archive it: after that `vmbackup-admin archive {name}`",
        )


def look_up_copies(site: Site, record: VmRecord) -> FoundCopies:
    """Looks a VM's copies up in its directories.

    Raises `NasError`, also if an archived VM with a last copy has no directory in the archive any
    more: that is what another archive looks like, and one that is not mounted. It never means that
    there are no copies.
    """
    require_directory(site, record)
    return judged(
        copies(site, record),
        archived=record.status == State.ARCHIVED,
        verified=record.verified,
        now=site.clock.now(),
        rehearsed=record.rehearsed,
    )


def judged(
    found: Iterable[tuple[catalogue.Copy, bool]],
    *,
    archived: bool,
    verified: str,
    now: datetime,
    rehearsed: RehearsalRecord | None = None,
) -> FoundCopies:
    """What the database notes of these copies of a VM, each with whether it is in the archive.

    `archived`: whether they belong there. `verified` and `rehearsed` are what the database said so
    far.
    """
    found = list(found)
    unread = said(verified, now) or timestamp(now)
    good = chronology.oldest_first(copy for copy, _ in found if copy.good)
    here = chronology.oldest_first(copy for copy, place in found if copy.good and place == archived)
    here = here or (good if archived else here)  # not archived any more, or its copies had to stay
    newest = here[-1] if here else None
    return FoundCopies(
        newest=as_record(newest.sidecar) if newest and newest.sidecar else None,
        damaged=tuple(sorted({copy.stamp for copy, _ in found if not (copy.good or copy.refused)})),
        verified=min(
            (last_read(copy.sidecar) for copy in good if copy.sidecar),
            key=lambda moment: said(moment, now),
            default=unread,
        ),
        good=frozenset(copy.stamp for copy in here),
        order_unknown=chronology.unknown(good),
        holds=merged((), (hold for copy, _ in found for hold in copy.holds)),
        rehearsed=_last_rehearsal((copy for copy, _ in found), rehearsed, now),
    )


def _last_rehearsal(
    copies: Iterable[catalogue.Copy], known: RehearsalRecord | None, now: datetime
) -> RehearsalRecord | None:
    """The last one of which the copies or the database tell: an older program notes no other."""
    told = ((copy.stamp, copy.sidecar.rehearsed) for copy in copies if copy.sidecar)
    found = [_as_rehearsal(stamp, rehearsed) for stamp, rehearsed in told if rehearsed]
    found += [known] if known else []
    return max(found, key=lambda last: said(last.time, now), default=None)


def _as_rehearsal(stamp: str, told: Rehearsed) -> RehearsalRecord:
    """A sidecar may hold much more than belongs into each generation of the database."""
    return RehearsalRecord(stamp, _cut(told.time), _cut(told.node), _cut(told.result))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def forget_command(key: str) -> str:
    """The command for an archived VM whose copies were deleted on purpose."""
    return f"`vmbackup-admin forget {quoted(key)}`"


def last_read(sidecar: Sidecar) -> str:
    """When a copy was last read in full: at its last verification, else before it was published.

    Of one that was never read as a whole: when the oldest of what it took over was. Empty for one
    that is suspect: what was read before that says nothing.
    """
    if sidecar.suspect:
        return ""
    if not sidecar.read_in_full:
        return sidecar.oldest_read
    return sidecar.verified.time if sidecar.verified else sidecar.finished


def said(moment: str, now: datetime) -> str:
    """A time of the database; empty, which is before all others, if it lies ahead or is none.

    What was read in the future was never read.
    """
    return "" if age(now, moment) is None else moment


def as_record(sidecar: Sidecar) -> CopyRecord:
    """What the state database notes of the copy that a sidecar describes."""
    fingerprint = {str(name): str(value) for name, value in sidecar.fingerprint.items()}
    return CopyRecord(
        sidecar.stamp,
        sidecar.claim,
        sidecar.size,
        sidecar.sha256,
        sidecar.finished,
        fingerprint,
        sidecar.seal,
        OtherEngine(sidecar.engine_reason) if sidecar.engine_reason else None,
        sidecar.not_paused,
    )


def differs(record: VmRecord, found: FoundCopies) -> bool:
    """Whether the database says something else than what was found, or less of holds."""
    known = (
        record.last_copy and record.last_copy.stamp,
        record.damaged,
        record.verified,
        record.order_unknown,
    )
    said_of_holds = merged(record.holds, found.holds) == record.holds
    return not said_of_holds or known != (
        found.newest and found.newest.stamp,
        found.damaged,
        found.verified,
        found.order_unknown,
    )


def hold(
    site: Site,
    session: Session,
    key: str,
    purpose: Literal["verify", "prune", "pin"],
    reason: str,
    *,
    makes_files: bool = True,
) -> AbstractContextManager[Holding]:
    """Claims a VM whose copies are to be read or changed. See `holding`."""
    start = partial(claims.grant, key=key, purpose=purpose, floor=site.floor(key))
    return holding(session, start, reason, makes_files=makes_files)


def commit_found(site: Site, held: Holding, reason: str) -> tuple[FoundCopies, VmRecord]:
    """Commits which copies the VM has now, and lets go of it: what was found, and its record."""
    found = look_up_copies(site, held.record)
    head = held.commit(
        lambda contents: copies_rules.record(contents, held.key, held.claim, found), reason
    )
    vms = head.contents.vms.values()
    return found, next((vm for vm in vms if vm.uuid == held.record.uuid), held.record)
