"""A state database that is lost is made anew, of the copies on the NAS.

First everything is looked at, and nothing changed: `plan`. Refused while a database can be read or
anybody is at work. Then the new database is made whole beside the old one, which is set aside under
a name of its own (`shared.state.store.exchange`). No copy is touched.
"""

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from shared.copies import archive_marker, directories
from shared.copies.archive_location import prove_apart
from shared.copies.copy_files import NasFiles, modes_for
from shared.copies.survey import FoundVm, Survey, survey
from shared.host.clock import Clock, timestamp
from shared.host.configuration import Configuration
from shared.host.errors import (
    DatabaseDamagedError,
    LockedError,
    NoDatabaseError,
)
from shared.host.host_identity import HostIdentity
from shared.host.host_lock import host_lock
from shared.nas.mount import check_nas
from shared.nas.repository import accept_repository, is_archive_noted
from shared.state.contents import Contents
from shared.state.formats import NEWEST
from shared.state.sessions.deaths import three_beats
from shared.state.sessions.heartbeat import BEATS_PER_LEASE
from shared.state.sessions.silence import moved_heartbeats
from shared.state.store import exchange, protocol, reserve, version
from shared.state.store.create_anew import Beginning, create_anew
from shared.state.store.generations import newest_readable
from shared.state.store.opening import open_database, read_version, require_writable
from shared.state.store.salvage import Salvage, salvage
from shared.tasks import rebuild_origin, records_from_copies
from shared.tasks.records_from_copies import MadeOfCopies


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """What the new database will be, and what was found for it.

    `repository_from` says in words where its id was read. `old` is what can be read of the database
    that was lost, at `old_place`; empty if there is nothing, or if that is of another repository:
    `foreign` is its id then. `archive_found`: the archive has its marker, or copies; without,
    nobody can tell an empty one from one that is not mounted.
    """

    repository: str
    repository_from: str
    lease_seconds: float
    generation: int
    made: MadeOfCopies
    survey: Survey
    old: Salvage
    old_place: Path | None
    foreign: str
    archive_found: bool

    @property
    def contents(self) -> Contents:
        """What is in the new database."""
        return self.made.contents

    def vm(self, uuid: str) -> FoundVm:
        """The copies of a VM."""
        return self.survey.vms[uuid]


def require_lost(root: Path) -> None:
    """Makes sure that there is no database that can be read in `root`.

    Raises `LockedError` that says what mends it, `DatabaseVersionError` if it is one of another
    version, `NasError`.
    """
    require_writable(root)
    with suppress(NoDatabaseError, DatabaseDamagedError):
        read_version(root)  # refuses version 1.0, which `statedb migrate` takes over
    try:
        head = newest_readable(root)
    except (NoDatabaseError, DatabaseDamagedError):
        return
    raise LockedError(
        f"the state database in {root} can be read, up to generation {head.generation} of "
        f"{head.header.committed}: nothing was changed",
        hint="`vmbackup-admin statedb check` says what is wrong and mends it; for one that was put "
        "back or replaced on purpose: `vmbackup-admin statedb accept`. If it shall be made anew of "
        f"the copies all the same, move {root} away first",
    )


def require_silence(
    root: Path,
    clock: Clock,
    progress: Callable[[float, float], None] = lambda _quiet, _all: None,
) -> None:
    """Watches the heartbeats in `root` for some beats. Raises `LockedError` if one moves."""
    lease_seconds = salvage(root).lease_seconds or version.DEFAULT_LEASE_SECONDS
    seconds = three_beats(lease_seconds)
    moved = moved_heartbeats(
        root / "node",
        clock,
        seconds,
        lease_seconds / BEATS_PER_LEASE / 2,
        lambda quiet: progress(quiet, seconds),
    )
    if moved:
        raise LockedError(
            f"somebody is at work: heartbeats move in {root / 'node'} ({', '.join(moved[:5])})",
            hint="stop the workers on all hosts (cron, systemd, launchd), let those that run end, "
            "and give the command again",
        )


def plan(configuration: Configuration, clock: Clock, lease_seconds: float | None) -> RebuildPlan:
    """Looks at everything, and changes nothing.

    Raises `LockedError` if there is a database that can be read, `NoDatabaseError` if there is no
    copy to make one of, `NasError` if the NAS or the archive is not there or not the right one.
    """
    nas = configuration.nas
    require_lost(nas.state)
    place = (
        nas.state
        if nas.state.is_dir()
        else next(iter(exchange.databases_set_aside(nas.mountpoint)), None)
    )
    old = salvage(place) if place is not None else Salvage()
    repository, origin = rebuild_origin.repository(configuration, old)
    foreign = old.repository if old.repository not in ("", repository) else ""
    old = Salvage() if foreign else old
    if not repository:
        repository, origin = rebuild_origin.of_copies(survey(nas, archive=False))
    marked = _require_archive(configuration, repository, old)
    found = survey(nas, archive=nas.archive.is_dir())
    if not found.vms:
        raise NoDatabaseError(
            f"there is no copy on the NAS at {nas.mountpoint} to make a state database of",
            hint="is the right NAS mounted? For a new one: `vmbackup-admin statedb accept`, then "
            "`vmbackup-admin init`",
        )
    empty = Contents(rebuild_origin.claims(configuration, found, old), format=old.format or NEWEST)
    return RebuildPlan(
        repository,
        origin,
        lease_seconds or old.lease_seconds or version.DEFAULT_LEASE_SECONDS,
        rebuild_origin.generation(configuration, repository, old),
        records_from_copies.make(found.vms.values(), old.vms, clock.now(), empty),
        found,
        old,
        None if foreign else place,
        foreign,
        marked or any(place.archived for vm in found.vms.values() for place in vm.places),
    )


def carry_out(
    configuration: Configuration, clock: Clock, planned: RebuildPlan, identity: HostIdentity
) -> Path | None:
    """Makes the database, and puts it in its place; returns where the old one is, if there was one.

    Killed at any point, the old one or the new one is there, and the same command finishes. This
    host accepts the new one. Raises `LockedError`, `NasError`.
    """
    nas, host = configuration.nas, configuration.host
    with host_lock(host.state_directory, "rebuild") as mine:
        if not mine:
            raise LockedError(
                "another process of this host makes the state database anew", hint="wait for it"
            )
        check_nas(nas)
        now = clock.now()

        def make() -> Path | None:
            prove_apart(nas)
            with exchange.new_directory(nas.mountpoint, _digits(identity)) as new:
                create_anew(new, identity, clock, _beginning(planned, now))
                _make_known(configuration, clock, new, identity)
                return exchange.put_in_place(new, nas.state, now, clock, require_lost)

        # on a full NAS the lost database may have the only room that there is
        there = nas.state.is_dir()
        aside = reserve.with_room(nas.state, clock, make) if there else make()
    open_database(nas.state, identity, clock).keep_reserve(nas.reserve)
    return aside


def _beginning(planned: RebuildPlan, now: datetime) -> Beginning:
    return Beginning(
        planned.repository,
        planned.lease_seconds,
        f"{timestamp(now)}-{secrets.token_hex(4)}",
        planned.generation,
        f"made anew of the copies: {len(planned.contents.vms)} VMs",
        planned.contents,
    )


def _make_known(
    configuration: Configuration, clock: Clock, new: Path, identity: HostIdentity
) -> None:
    """This host accepts the new database, and the archive is made or marked.

    Before the database gets its name, so that a kill leaves nothing to be done: until then there is
    none that this host could refuse because of that.
    """
    nas, host = configuration.nas, configuration.host
    database = open_database(new, identity, clock, host.state_directory)
    database.seen.accept(database.files.run(protocol.read_head()))
    accept_repository(nas, host.state_directory, database.version.repository)
    files = NasFiles(modes_for(shared_group=nas.shared_group))
    archive_marker.prepare_archive(files, nas, database.version.repository)


def _digits(identity: HostIdentity) -> str:
    said = f"{identity.machine}\0{identity.hostname}\0{identity.node}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _require_archive(configuration: Configuration, repository: str, old: Salvage) -> bool:
    """Makes sure that the archive is there and the right one: copies in it must not be missed.

    Without its marker it must have the VMs that were ARCHIVED in the lost database. Returns whether
    it has the marker.
    """
    nas, host = configuration.nas, configuration.host
    archive_marker.refuse_archive(nas, above=False)
    archive_marker.require_ours_or_new(nas, repository or None)
    return archive_marker.check_archive(
        nas,
        repository,
        known=lambda: is_archive_noted(nas, host.state_directory),
        lost=lambda: directories.not_in_archive(nas, old.vms.values()),
        archived=lambda: len(directories.archived(nas, old.vms.values())),
    )
