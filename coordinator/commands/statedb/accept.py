"""`vmbackup-admin statedb accept`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from coordinator import confirming
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode, NoDatabaseError
from shared.output import answer, warn

if TYPE_CHECKING:
    from shared.host.configuration import Configuration
    from shared.state.store.database import Database
    from shared.state.store.snapshot import Snapshot


@dataclass(frozen=True)
class _Found:
    """What this host knows, and what is there now. None: no database."""

    known: str | None
    seen: int
    database: "Database | None"
    head: "Snapshot | None"
    differs: str

    @property
    def repository(self) -> str | None:
        """That of the database which is there."""
        return self.database.version.repository if self.database else None

    @property
    def is_new(self) -> bool:
        """Whether there is something to accept."""
        return bool(self.differs) or self.known != self.repository


@documented(
    example="""
        vmbackup-admin statedb accept --dry-run
        vmbackup-admin statedb accept
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@json_option
@dry_run_option
@pass_invocation
def accept(invocation: Invocation, *, yes: bool, as_json: bool, dry_run: bool) -> ExitCode:
    """Accept on this host, on purpose, another state database than the one that it has seen.

    For one that was made anew (`statedb rebuild`, `init`), restored from a backup of the NAS, or
    whose newest generation was set aside; also for a NAS that was replaced. Each host remembers
    which database it has seen and up to where, and refuses another one, because that is what a
    wrong NAS and one that has lost writes look like. Says what was seen and what is there now.
    Changes nothing on the NAS. Clones of disk images that were kept for a repository that is given
    up are removed from this host.
    """
    from shared.frozen.digest_files import digest_files
    from shared.frozen.directory import remove_all
    from shared.nas.repository import accept_repository

    configuration = invocation.configuration()
    found = _look(configuration)
    if not found.is_new or dry_run:
        what = "would accept that" if found.is_new else "there is nothing to accept"
        _say(found, what, as_json=as_json, dry_run=dry_run)
        return ExitCode.DONE
    question = "\n".join([*_lines(found), "Accept that?"])
    if not yes and not confirming.confirmed(question, yes="accepts it without being asked"):
        warn("nothing was accepted")
        return ExitCode.FAILURE
    if found.database is not None and found.head is not None:
        found.database.seen.accept(found.head)
    accept_repository(configuration.nas, configuration.host.state_directory, found.repository)
    if found.known and found.known != found.repository:
        remove_all(configuration.host.state_directory, found.known)
        for file in digest_files(configuration.host.state_directory, found.known):
            file.remove()
    _say(found, "accepted", as_json=as_json, accepted=True)
    return ExitCode.DONE


def _look(configuration: "Configuration") -> _Found:
    """Raises what opening the database raises; `NoDatabaseError` if none is known either."""
    from shared.host.clock import SystemClock
    from shared.host.host_identity import HostIdentity
    from shared.nas.mount import check_nas
    from shared.nas.repository import known_repository
    from shared.state.store import protocol
    from shared.state.store.opening import open_database

    nas, host = configuration.nas, configuration.host
    check_nas(nas, reading=True)
    known = known_repository(nas, host.state_directory)
    identity = HostIdentity.of_this_machine(host.node, host.state_directory, make=False)
    try:
        database = open_database(
            nas.state, identity, SystemClock(), host.state_directory, reading=True
        )
    except NoDatabaseError:
        if known is None:
            raise
        return _Found(known, 0, None, None, "")
    for warning in database.warnings:
        warn(warning)
    head = database.files.run(protocol.read_head())
    seen = database.seen
    return _Found(known, seen.generation, database, head, seen.differs(database.files, head))


def _document(found: _Found) -> dict[str, object]:
    head, version = found.head, found.database.version if found.database else None
    return {
        "known": {"repository": found.known, "generation": found.seen or None},
        "there": {
            "repository": found.repository,
            "generation": head.generation if head else None,
            "committed": head.header.committed if head else None,
            "node": head.header.node if head else None,
            "reason": head.header.reason if head else None,
            "vms": len(head.contents.vms) if head else None,
            "rebuilt": version.rebuilt or None if version else None,
        },
        "differs": found.differs or None,
    }


def _lines(found: _Found) -> list[str]:
    upto = f", up to generation {found.seen}" if found.seen else ""
    knew = f"this host knows the repository {found.known}{upto}"
    if found.head is None:
        return [knew, "there is no state database on the NAS now"]
    header = found.head.header
    return [
        knew if found.known else "this host knows no repository yet",
        (
            f"there is the repository {found.repository} now, at generation {header.generation} "
            f"with {len(found.head.contents.vms)} VMs; the last commit is of {header.node}, "
            f"{header.committed}: {header.reason}"
        ),
        *([f"the history was rolled back or replaced: {found.differs}"] if found.differs else []),
    ]


def _say(
    found: _Found, what: str, *, as_json: bool, dry_run: bool = False, accepted: bool = False
) -> None:
    document = {**_document(found), "accepted": accepted, "dry_run": dry_run}
    answer(document, *_lines(found), what, as_json=as_json)
