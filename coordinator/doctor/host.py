"""Is this host set up: its configuration, its own directory, its name?"""

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from coordinator.doctor.result import ANOTHER_USER, Check
from coordinator.users import name_of, run_as
from shared.host.configuration import Configuration
from shared.host.host_identity import HostIdentity, own_machine_id, own_path
from shared.host.shortage import room_hint
from shared.nas.mount import NETWORK, mount_of, mount_table


def examine(configuration: Configuration, path: Path | None) -> Iterator[Check]:
    """The configuration and this host's own directory. Raises OSError if that cannot be written."""
    yield Check("configuration", "ok", str(path) if path else "no file, environment only")
    directory = configuration.host.state_directory
    if (owner := _somebody_else(directory)) is not None:
        yield Check(
            "user",
            "fail",
            f"this is {name_of(os.geteuid())}, and {directory} is for the workers of "
            f"{name_of(owner)}, for whom all may be well: nothing else was examined",
            run_as(owner, "vmbackup-admin doctor"),
            ANOTHER_USER,
        )
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    if problem := _try_to_write(directory):
        yield Check(
            "state directory",
            "fail",
            f"{directory} cannot be written: {problem.strerror}",
            room_hint(problem) or "set host.state_directory to a local one that can",
        )
    else:
        shared = _shared_by_hosts(configuration)
        yield Check(
            "state directory",
            "warn" if shared else "ok",
            f"{directory}{shared}",
            "hosts with one directory take each other's locks and notes for their own: set "
            "host.state_directory to a local one"
            if shared
            else "",
        )
    yield from _machine(directory)


def _try_to_write(directory: Path) -> OSError | None:
    """Writes what a note may have there, and removes it: why that failed."""
    file = directory / f"doctor.{secrets.token_hex(4)}"
    try:
        try:
            file.write_bytes(bytes(4096))
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


def _may_write(directory: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=effective)


def _somebody_else(directory: Path) -> int | None:
    """Whose this host's own directory is; None if it is this user's, or shared, or nobody's yet.

    Of one that this user may not even see, it is the owner of what is closed above it.
    """
    me = os.geteuid()
    for place in (directory, *directory.parents):
        try:
            owner = place.stat().st_uid
        except PermissionError:
            continue
        except OSError:
            return None
        usable = me != 0 and place == directory and _may_write(directory)
        return None if owner in (me, 0) or usable else owner
    return None


def _shared_by_hosts(configuration: Configuration) -> str:
    """Why other hosts may have this host's own directory, too; empty: it is this host's alone."""
    place = os.path.realpath(configuration.host.state_directory)
    if Path(place).is_relative_to(configuration.nas.mountpoint):
        return " is on the NAS"
    found = mount_of(place, list(mount_table()))
    return f" is on {found.filesystem}" if found and found.filesystem in NETWORK else ""


def _machine(directory: Path) -> Iterator[Check]:
    """Says so where the system has no machine id, as in most containers.

    Two of them with one name are told apart by our own.
    """
    if not HostIdentity.of_this_machine("").machine:
        own = own_machine_id(directory, make=False)
        known = (
            f"it is known by {own_path(directory)}"
            if own
            else f"the first worker makes one in {own_path(directory)}"
        )
        hint = "keep that file for as long as the machine lives; give it to no other"
        yield Check("machine", "ok", f"the system has no machine id; {known}: {hint}")


def platform() -> Check:
    """The interpreter, for reports of faults."""
    return Check("Python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
