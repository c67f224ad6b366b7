"""Holding a VM: the one way to claim it, to ask whether the claim still stands, and to let go.

floor = site.floor(key)
start = partial(claims.grant, key=key, purpose="verify", floor=floor)
with holding(session, start, f"verify {key}") as held:
...
held.check()
...
held.commit(change, "reason")    # which may let go of the VM; else leaving the block does
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Final, Protocol

from shared.host.clock import timestamp
from shared.host.errors import LockLostError, VmBackupError
from shared.state.contents import Contents
from shared.state.records import Claim, VmRecord
from shared.state.rules import claims
from shared.state.sessions.heartbeat import BEATS_PER_LEASE
from shared.state.sessions.session import Session
from shared.state.store.protocol import Change
from shared.state.store.snapshot import Snapshot

log: Final = logging.getLogger(__name__)


class Start(Protocol):
    """A change that claims a VM for a session, such as `claims.grant` with all else bound."""

    def __call__(self, contents: Contents, *, session: str, when: str) -> Contents:
        """The contents with the claim. `when`: the present time, for display."""


class Holding:
    """A VM that this session holds: its record as it was when it was claimed, and the claim."""

    def __init__(self, session: Session, record: VmRecord, claim: Claim) -> None:
        self.session, self.record, self.claim = session, record, claim
        self._asked = session.clock.boottime()

    @property
    def key(self) -> str:
        """The name of the VM, as it was when it was claimed."""
        return self.record.key

    def commit(self, change: Change, reason: str) -> Snapshot:
        """Commits `change` as the session that holds the VM. Raises like `Session.commit`."""
        return self.session.commit(change, reason)

    def now(self) -> VmRecord:
        """The record as the database has it now. Raises `LockLostError` if the claim is gone."""
        self._asked = self.session.clock.boottime()
        return claims.held(self.session.head().contents, self.key, self.claim)

    def check(self) -> None:
        """Asks the heartbeat and the database. Raises `LockLostError` if the claim is gone."""
        self.session.check()
        self.now()

    def check_often(self) -> None:
        """Like `check`, but asks the database only as often as the heart beats: for long loops."""
        self.session.check()
        elapsed = self.session.clock.boottime() - self._asked
        if elapsed > self.session.lease_seconds / BEATS_PER_LEASE:
            self.now()

    def release(self, reason: str, *, leftovers: bool = False) -> None:
        """Lets go of the VM, in the state that it has. Nothing, if that is done already.

        `leftovers`: partial files may be left, which the next database worker removes.
        """
        if self.session.held == self.claim:
            when = timestamp(self.session.clock.now())
            self.commit(
                lambda contents: claims.release(
                    contents, self.key, self.claim, leftovers=leftovers, when=when
                ),
                reason,
            )


@contextlib.contextmanager
def holding(
    session: Session, start: Start, reason: str, *, makes_files: bool = True
) -> Iterator[Holding]:
    """Claims a VM by a commit, and lets go of it on the way out unless a commit did meanwhile.

    Raises what `start` raises: `LockedError` if somebody holds the VM. A session holds one VM at a
    time.

    After an error of the operator's kind (`VmBackupError`) the VM is let go by a commit, so that
    the session can go on with the next one. A displaced session (`LockLostError`) commits nothing.
    With `makes_files` it is noted then that partial files may be left beside its copies.

    After any other interruption, and where that commit fails, the end of the session frees the
    VM; so it does, or the next database worker does, after a crash.
    """
    when = timestamp(session.clock.now())
    record, claim = session.claim(
        lambda contents: start(contents, session=session.id, when=when), reason
    )
    held = Holding(session, record, claim)
    try:
        yield held
        held.release(f"{reason}: done")
    except LockLostError:
        raise
    except VmBackupError as error:
        _release_after(held, f"{reason}: {error.message}", leftovers=makes_files)
        raise
    finally:
        session.doing.rest()


def _release_after(held: Holding, reason: str, *, leftovers: bool) -> None:
    """Lets go of the VM. A failure is no reason to hide the error that led here."""
    try:
        held.release(reason, leftovers=leftovers)
    except VmBackupError as error:
        log.warning(
            "not let go of yet, the end of this process does it: %s",
            error.message,
            extra={"vm": held.key},
        )
