"""The lease marker.

Holders that take and release it as filelock does, and breakers of production that may be wrong
about them.
"""

from collections.abc import Hashable, Sequence
from typing import Any

from shared.host.errors import NasError
from shared.state.store.lease import break_lease
from shared.state.store.operations import ReadLease
from shared.state.store.state_files import StateFiles
from tests.protocol.nas import AcquireLease, ReleaseLease, World
from tests.protocol.process import Program


def holder(name: str, *, releases: bool) -> Program:
    """Takes the lease if it can; then releases it, or stays alive holding it."""

    def program(files: StateFiles) -> Hashable:
        marker = name.encode()
        try:
            taken = files.perform(AcquireLease(marker))
            if taken and releases:
                files.perform(ReleaseLease(marker))
        except NasError:
            return "unknown"
        return "holds" if taken and not releases else "free"

    return program


def breaker(name: str, judged: bytes) -> Program:
    """Has judged a marker stale some time ago, and breaks it whenever it is its turn, if it is
    still there.
    """

    def program(files: StateFiles) -> Hashable:
        try:
            found = files.perform(ReadLease())
            if found is None or found[0] != judged:
                return "not there"
            return "broke it" if files.run(break_lease(judged, name)) else "did not"
        except NasError:
            return "unknown"

    return program


def nobody_is_robbed(dead: bytes) -> Any:
    """The dead marker is gone in the end, and whoever took the lease since still has it, unless yet
    another one does.
    """

    def check(world: World, results: Sequence[Any]) -> str | None:
        if None in results or "unknown" in results:
            return None
        if world.lease == dead:
            return "the marker of the dead holder is still there"
        if "holds" in results and world.lease is None:
            return "the marker of a live holder was removed and not put back"
        return None

    return check
