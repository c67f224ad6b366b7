"""What stands in for a state database that cannot be used, for whoever only reads copies.

It shows what an earlier generation said, or nothing, and refuses to write.
"""

from pathlib import Path

from shared.host.clock import Clock
from shared.host.errors import VmBackupError
from shared.host.host_identity import HostIdentity
from shared.state.contents import Contents
from shared.state.formats import FIRST
from shared.state.store.database import Database
from shared.state.store.header import NO_PREVIOUS, Header
from shared.state.store.snapshot import Snapshot
from shared.state.store.state_files import StateFiles
from shared.state.store.version import DEFAULT_LEASE_SECONDS, DatabaseVersion


class StandIn(Database):
    """Not a database: `shown` is all that it says, and `problem` why there is no better one."""

    def __init__(
        self,
        root: Path,
        identity: HostIdentity,
        clock: Clock,
        repository: str,
        shown: Snapshot | None,
        problem: VmBackupError,
    ) -> None:
        settings = DatabaseVersion("", repository, DEFAULT_LEASE_SECONDS, "link")
        super().__init__(StateFiles(root, clock, settings.primitive), settings, identity, clock)
        self._shown = shown or _empty(repository)
        self.problem = problem

    def head(self) -> Snapshot:
        """What an earlier generation said; nothing if there is none."""
        return self._shown

    def require_writable(self) -> None:
        """Raises the problem: nothing is written beside a database that cannot be used."""
        raise self.problem


def _empty(repository: str) -> Snapshot:
    """Nothing is known. Of the first format: so nobody says that the archive must be marked."""
    header = Header(repository, 0, NO_PREVIOUS, "", 0, "", "", "")
    return Snapshot(header, Contents(format=FIRST), "")
