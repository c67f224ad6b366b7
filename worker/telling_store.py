"""Where those who tell agree on who tells what: hosts in the database."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shared.state.contents import Contents
from shared.state.sessions.host_look import TELLER
from shared.state.store.protocol import Change

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.sessions.session import Session


class Claims(Protocol):
    """Who tells now, and how that is committed."""

    @property
    def id(self) -> str:
        """Under which name it is claimed."""

    def commit(self, change: Change, reason: str) -> Contents:
        """Commits, unless nothing changes."""


class Store(Protocol):
    """Where hosts, or this one alone, agree on who tells what."""

    def contents(self) -> Contents:
        """What is told now."""

    def commit(self, change: Change, reason: str) -> Contents:
        """Commits something that is no claim, unless nothing changes."""

    def claiming(self) -> AbstractContextManager[Claims]:
        """Within, this process may claim."""


class Agreed:
    """The events of VMs and hosts, in the database."""

    def __init__(self, site: "Site") -> None:
        self._database = site.database

    def contents(self) -> Contents:
        """See `Store`."""
        return self._database.head().contents

    def commit(self, change: Change, reason: str) -> Contents:
        """See `Store`."""
        return self._database.commit_once(change, reason, TELLER).contents

    @contextlib.contextmanager
    def claiming(self) -> Iterator[Claims]:
        """See `Store`: a session, which others see alive, or expire."""
        with self._database.session(TELLER) as session:
            yield _InSession(session)


@dataclass(frozen=True)
class _InSession:
    session: "Session"

    @property
    def id(self) -> str:
        return self.session.id

    def commit(self, change: Change, reason: str) -> Contents:
        self.session.doing.phase = reason
        return self.session.commit(change, reason).contents
