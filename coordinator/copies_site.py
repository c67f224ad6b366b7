"""The NAS for commands that read copies: with its state database, or without.

A NAS full of good copies is worth something while its database is lost, damaged, or somebody
else's. Then the newest generation that can be read counts, or none, and the directories tell the
rest (`shared.tasks.finding_unlisted`). Nothing is written to `vmstate` then.

Which NAS it is has to be known all the same. Whatever names a repository is asked: the database,
its generations, what this host remembers, the marker in the archive.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from shared.host.errors import (
    ConfigurationError,
    DatabaseDamagedError,
    DatabaseVersionError,
    NoDatabaseError,
    NodeConflictError,
    NoGenerationError,
    OtherRepositoryError,
    VmBackupError,
)
from shared.output import warn

if TYPE_CHECKING:
    from shared.command_line import Invocation
    from shared.host.configuration import Configuration
    from shared.site import Site
    from shared.state.contents import Contents
    from shared.state.store.snapshot import Snapshot

#: What keeps a command from using the database, while the NAS itself can be used.
_UNUSABLE: Final = (
    NoDatabaseError,
    NoGenerationError,
    DatabaseDamagedError,
    DatabaseVersionError,
    NodeConflictError,
    OtherRepositoryError,
)


@dataclass(frozen=True, slots=True)
class CopiesSite:
    """A site to read copies from, and how much its database counts.

    `database` is `current`, `newer` (than this program, which may read it), `earlier` (its newest
    generation cannot be used) or `none`; `warnings` have been said.
    """

    site: "Site"
    contents: "Contents"
    database: Literal["current", "newer", "earlier", "none"] = "current"
    warnings: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether something can be committed."""
        return self.database == "current"


def open_copies(invocation: "Invocation", *, reading: bool = True) -> CopiesSite:
    """Opens the NAS as the configuration names it, also without a usable database, and says so.

    Raises what `open_site` raises where the NAS itself is not the right one, or has neither a
    database nor copies. Without `reading` also for a database in which another machine has this
    host's name. One that is too new for this program is read, and nothing is noted in it.
    """
    try:
        site = invocation.site(reading=reading)
        contents = site.database.head().contents
    except _UNUSABLE as error:
        if not reading and isinstance(error, NodeConflictError):
            raise
        if not reading and isinstance(error, DatabaseVersionError):
            return _newer(invocation, error)
        found = _without(invocation.configuration(), error)
        for warning in found.warnings:
            warn(warning)
        return found
    unusable = (row.message for row in contents.unusable)
    return CopiesSite(site, contents, warnings=(*site.database.warnings, *unusable))


def _newer(invocation: "Invocation", error: DatabaseVersionError) -> CopiesSite:
    """Raises `error` if the database cannot be read either."""
    try:
        site = invocation.site(reading=True)
        contents = site.database.head().contents
    except DatabaseVersionError:
        raise error from None
    said = "nothing is noted in the state database"
    warn(said)
    return CopiesSite(site, contents, "newer", (*site.database.warnings, said))


def _without(configuration: "Configuration", error: VmBackupError) -> CopiesSite:
    from shared.copies import claim_numbers
    from shared.copies.copy_files import NasFiles, modes_for
    from shared.host.clock import SystemClock
    from shared.host.host_identity import HostIdentity
    from shared.nas.mount import check_nas
    from shared.site import Site
    from shared.state.store.stand_in import StandIn

    nas, host, clock = configuration.nas, configuration.host, SystemClock()
    status = check_nas(nas, reading=True)
    repository, shown = _identify(configuration, error)
    if shown is None and not claim_numbers.highest_claim(
        claim_numbers.directories_in((nas.mountpoint, nas.archive))
    ):
        raise error
    identity = HostIdentity.of_this_machine(host.node, host.state_directory, make=False)
    database = StandIn(nas.state, identity, clock, repository, shown, error)
    site = Site(
        configuration,
        clock,
        identity,
        database,
        status,
        NasFiles(modes_for(shared_group=nas.shared_group)),
        reading=True,
    )
    what = (
        f"what generation {shown.generation} says, committed {shown.header.committed}, and what "
        "lies in the directories"
        if shown
        else "what lies in the directories"
    )
    warning = f"{error.message} ({error.hint}). Shown is {what}; nothing is noted"
    return CopiesSite(
        site, database.head().contents, "earlier" if shown else "none", warnings=(warning,)
    )


def _identify(
    configuration: "Configuration", error: VmBackupError
) -> "tuple[str, Snapshot | None]":
    """The repository of this NAS, empty if nothing tells, and the newest usable generation of it.

    Raises `error` if the NAS is another one than this host knows.
    """
    from shared.copies.archive_marker import named_repository
    from shared.nas.repository import known_repository

    nas = configuration.nas
    try:
        known = known_repository(nas, configuration.host.state_directory) or ""
    except ConfigurationError:
        known = ""  # a user who may not see what this host remembers
    try:
        marked = named_repository(nas)
    except VmBackupError:
        marked = ""  # whoever needs the archive is told
    shown = _newest(configuration)
    committed = shown.header.repository if shown else ""
    if known and known not in (committed, marked) and (committed or marked):
        raise error if committed else _another(configuration, known)
    repository = known or committed or marked
    return repository, shown if committed == repository else None


def _newest(configuration: "Configuration") -> "Snapshot | None":
    from shared.state.store import generations

    try:
        return generations.newest_readable(configuration.nas.state)
    except VmBackupError:
        return None


def _another(configuration: "Configuration", known: str) -> OtherRepositoryError:
    return OtherRepositoryError(
        f"the archive on the NAS at {configuration.nas.mountpoint} belongs to another repository "
        f"than {known}, which this host knows there",
        hint="is the right NAS mounted?",
    )
