"""Making a state database that begins with what is known, under a name that nobody else knows."""

from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

from shared.host.clock import Clock, timestamp
from shared.host.host_identity import HostIdentity
from shared.nas.nas_errors import nas_error
from shared.nas.writing import sync_directory, write_new_file
from shared.state.contents import Contents
from shared.state.store import version
from shared.state.store.create import begin, first_generation, make_directories, probe_primitive
from shared.state.store.opening import open_database


@dataclass(frozen=True, slots=True)
class Beginning:
    """With what a database begins that is made anew: its first generation, and its settings."""

    repository: str
    lease_seconds: float
    rebuilt: str
    number: int
    reason: str
    contents: Contents


def create_anew(
    root: Path, identity: HostIdentity, clock: Clock, beginning: Beginning
) -> version.DatabaseVersion:
    """Makes a whole state database in `root`, a name that nobody else knows. Raises `NasError`."""
    contents = beginning.contents
    try:
        make_directories(root)
        settings = version.DatabaseVersion(
            package_version("vmbackup"),
            beginning.repository,
            beginning.lease_seconds,
            probe_primitive(root),
            contents.format,
            beginning.rebuilt,
        )
        write_new_file(root / "vmtool-db-version", settings.render())
        sync_directory(root)
    except OSError as error:
        raise nas_error(error, f"make a state database in {root}") from error
    first = first_generation(
        beginning.repository,
        beginning.number,
        identity.node,
        timestamp(clock.now()),
        beginning.reason,
        contents,
    )
    begin(open_database(root, identity, clock), first, beginning.number)
    return settings
