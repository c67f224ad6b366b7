"""Clones of disk images on this host: those that serve the next copies stay, all others go."""

from shared.frozen.kept import KeptClones, KeptNote
from shared.frozen.store import CloneDirectory, RoomLimit, known_directories
from shared.host.errors import VmBackupError
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.states import State


def sweep(site: Site) -> None:
    """Removes clones that serve no VM of this host, or for which its disks have no room.

    Those that workers left that died; of VMs that were archived, forgotten, moved or deleted since,
    or are to be read in full; of copies that are not the last one. What cannot be removed now a
    later tick removes. Where there never was a clone, one directory is looked for, and no more.
    """
    state_directory, repository = (
        site.configuration.host.state_directory,
        site.database.version.repository,
    )
    directories = list(known_directories(state_directory, repository))
    if not directories:
        return
    contents = site.database.head().contents
    records = {record.uuid: record for record in contents.vms.values()}
    live = {record.claim.number for record in contents.vms.values() if record.claim}
    for directory in directories:
        record = records.get(directory.uuid)
        note = KeptNote(state_directory, repository, directory.uuid)
        kept = note.read()
        if kept and not _serves(site, directory, record, kept):
            note.remove()
            kept = None
        directory.remove(
            lambda claim: claim not in live and claim <= contents.claims_granted,
            kept.paths if kept else (),
        )


def _serves(
    site: Site, directory: CloneDirectory, record: VmRecord | None, kept: KeptClones
) -> bool:
    """Whether the next copy of a VM may be made by its clones."""
    if record is None or record.node != site.node or record.missing_since is not None:
        return False
    if record.claim is not None:
        return True  # whoever holds it is just using them, or making others
    if record.status == State.ARCHIVED or record.last_copy is None:
        return False
    try:
        changed = site.policy(record).changed
        short = RoomLimit(site.configuration.backup.clone_free).reached(directory.folder)
    except (VmBackupError, OSError):
        return False
    return changed == "auto" and not short and record.last_copy.stamp == kept.stamp
