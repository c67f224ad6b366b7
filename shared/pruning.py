"""Retention by hand: which copies are kept and why, letting go of the others, and pinning single ones.

A pin is in the copy's sidecar and nowhere else: it moves with the copy into the archive and back, survives the loss of the state database,
and retention, which reads the sidecars anyway, cannot overlook it. Whatever is changed is changed under a claim on the VM.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from shared.clock import timestamp
from shared.config import VmPolicy
from shared.copies import catalogue, retention
from shared.copies import sidecar as sidecars
from shared.copies.mount import check_nas
from shared.copies.retention import Decision, Rules
from shared.errors import CopyError, IllegalMoveError
from shared.site import Site
from shared.statedb import changes
from shared.statedb.records import Claim, VmRecord
from shared.statedb.session import Session
from shared.states import State

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of a VM's copies. `removed` are stamps; also of what interrupted removals had left."""

    key: str
    decisions: tuple[Decision, ...]
    removed: tuple[str, ...]


def rules_of(policy: VmPolicy) -> Rules:
    """The retention that a policy asks for."""
    return Rules(policy.keep_last, policy.keep_daily, policy.keep_weekly, policy.keep_monthly, policy.keep_yearly)


def decide(site: Site, record: VmRecord) -> tuple[Decision, ...]:
    """What retention says of each copy now, newest first. Changes nothing, takes no lock. Raises `IllegalMoveError` if it is archived."""
    if record.status == State.ARCHIVED:
        raise IllegalMoveError(
            f"{record.key} is {record.status}: retention does not touch archived copies", hint=f"vmbackup-admin activate {record.key}"
        )
    copies = catalogue.read(site.directory(record)).copies if record.directory else ()
    return tuple(retention.select(copies, rules_of(site.configuration.policy_for(record.name))))


def prune(site: Site, session: Session, key: str) -> Pruned:
    """Removes the copies of a VM that no rule keeps, by this host's configuration; the newest good one stays in any case.

    May be repeated after a crash. Raises `IllegalMoveError` if the VM is archived, `LockedError` while somebody works on it, `NasError`.
    """
    decide(site, changes.find(site.database.head().contents, key))
    with _claimed(site, session, key, "prune", f"prune {key}") as (record, own):
        decisions = decide(site, record)
        rules = rules_of(site.configuration.policy_for(record.name))
        removed = retention.apply(site.files, site.directory(record), rules, check=_check(site, session, key, own)) if decisions else []
    for stamp in removed:
        log.info("copy %s removed: no rule keeps it", stamp, extra={"vm": key})
    return Pruned(key, decisions, tuple(removed))


def pin(site: Site, session: Session, key: str, stamp: str, *, pinned: bool) -> bool:
    """Exempts a copy from retention, or takes that back; answers whether that changed anything. Archived copies can be pinned, too.

    Raises `CopyError` if there is no such copy or its sidecar is damaged, `LockedError` while somebody works on the VM, `NasError`.
    """
    if find(site, changes.find(site.database.head().contents, key), stamp).pinned == pinned:
        return False
    what = f"{'pin' if pinned else 'unpin'} {key} {stamp}"
    with _claimed(site, session, key, "pin", what) as (record, own):
        copy = find(site, record, stamp)
        if copy.sidecar is None:
            raise CopyError(f"{key}: {stamp} cannot be pinned: {copy.problem}", hint="retention never removes a copy in this state")
        changes.held(site.database.head().contents, key, own)
        when = timestamp(site.clock.now()) if pinned else ""
        sidecars.replace(site.files, copy.directory, replace(copy.sidecar, pinned=when), own.number)
    return True


def find(site: Site, record: VmRecord, stamp: str) -> catalogue.Copy:
    """The copy of that stamp, archived or not. Raises `CopyError` if there is none."""
    for directory, _archived in site.directories(record):
        if copy := catalogue.read(directory).find(stamp):
            return copy
    raise CopyError(f"{record.key} has no copy {stamp}", hint=f"`vmbackup-admin copies {record.key}` lists them")


@contextlib.contextmanager
def _claimed(site: Site, session: Session, key: str, purpose: Literal["prune", "pin"], reason: str) -> Iterator[tuple[VmRecord, Claim]]:
    """Holds a VM. After an error the end of the session frees it."""
    check_nas(site.configuration.nas, write=True)
    when = timestamp(site.clock.now())
    record, own = session.claim(lambda contents: changes.claim(contents, key, session.id, purpose, when), reason)
    yield record, own
    session.commit(lambda contents: changes.released(contents, key, own), f"{reason}: done")
    session.doing.vm = session.doing.phase = ""


def _check(site: Site, session: Session, key: str, own: Claim) -> Callable[[], None]:
    def check() -> None:
        session.check()
        changes.held(site.database.head().contents, key, own)

    return check
