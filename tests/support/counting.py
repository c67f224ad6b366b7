"""A worker for tests of the state database on real mounts.

Commits as fast as it can, and prints a line for each commit it was told of.

    python -m tests.support.counting VMSTATE NODE LABEL SECONDS [no-lease]

Each commit raises the failure count of the record LABEL by one and the number of claims granted by
one: at the end, the first of every label must not be below the lines printed under that label, and
the second must be the sum of the first. The lease on the database only keeps writers from
colliding; `no-lease` does without, so that they do collide.
"""

import contextlib
import faulthandler
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shared.host.clock import SystemClock
from shared.host.errors import LockLostError
from shared.host.host_identity import HostIdentity
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.states import State
from shared.state.store.database import Database
from shared.state.store.opening import open_database

#: Who still works so long after the time is over says where it hangs.
HANGS_SECONDS = 150


def count(contents: Contents, label: str, node: str) -> Contents:
    """One more."""
    record = contents.vms.get(label) or VmRecord(
        label, label, label, node, label, State.NEW, found="2026-11-22T20:38:00Z"
    )
    return replace(contents, claims_granted=contents.claims_granted + 1).with_vm(
        replace(record, failures=record.failures + 1)
    )


class NoLease:
    """In the place of the lease on the database."""

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        yield False


def main(root: str, node: str, label: str, seconds: str, *options: str) -> None:
    """The program. A session that others have expired is followed by a new one."""
    faulthandler.dump_traceback_later(float(seconds) + HANGS_SECONDS, exit=True)
    database = open_database(Path(root), HostIdentity.of_this_machine(node), SystemClock())
    if "no-lease" in options:
        database = Database(
            database.files,
            database.version,
            database.identity,
            database.clock,
            lease=NoLease(),
        )
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        try:
            with database.session("test") as session:
                while time.monotonic() < end:
                    session.commit(lambda contents: count(contents, label, node), "count")
                    print("committed", flush=True)
        except LockLostError:
            print("fenced", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
