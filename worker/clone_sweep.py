"""What this host keeps for the next copies: what serves them stays, all else goes.

Clones of disk images, and digests of what was on disks that could not be cloned.
"""

import os
from collections.abc import Collection
from pathlib import Path

from shared.frozen.digest_files import DigestFile, digest_files
from shared.frozen.directory import CloneDirectory, known_directories
from shared.frozen.kept_clones import KeptClones, KeptNote
from shared.host.errors import VmBackupError
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.states import State


def sweep(site: Site) -> None:
    """Removes clones and digests that serve no copy any more."""
    _sweep_clones(site)
    _sweep_digests(site)


def _sweep_digests(site: Site) -> None:
    """Those of VMs whose next copy will not be made by them; they are files in one directory."""
    state_directory = site.configuration.host.state_directory
    found = digest_files(state_directory, site.database.version.repository)
    if not found:
        return
    contents = site.database.head().contents
    records = {record.uuid: record for record in contents.vms.values()}
    live = {record.claim.number for record in contents.vms.values() if record.claim}
    for each in found:
        record = records.get(each.uuid)
        if each.claim:
            stays = each.claim in live or each.claim > contents.claims_granted
        else:
            stays = record is not None and _uses(site, record, _copy_of(each))
        if not stays:
            each.remove()


def _copy_of(file: DigestFile) -> str:
    """The stamp of the copy of which a file has the digests; empty if that is not understood."""
    from shared.export.raw_digests import LastDigests  # only here: many hosts have none

    try:
        last = LastDigests.open(file.path)
    except (OSError, ValueError):
        return ""
    last.close()
    return last.stamp


def _sweep_clones(site: Site) -> None:
    """Removes clones that serve no VM of this host, or for which its disks have no room.

    Those that workers left that died; of VMs that were archived, forgotten, moved or deleted since,
    or are to be read in full; of copies that are not the last one. What cannot be removed now a
    later tick removes, also where a disk is away. Where there never was a clone, one directory is
    looked for, and no more.
    """
    state_directory, repository = (
        site.configuration.host.state_directory,
        site.database.version.repository,
    )
    directories = list(known_directories(state_directory, repository))
    if not directories:
        return
    followed = _follow(site, directories)
    if followed:
        directories = list(known_directories(state_directory, repository))
    contents = site.database.head().contents
    records = {record.uuid: record for record in contents.vms.values()}
    live = {record.claim.number for record in contents.vms.values() if record.claim}
    for directory in directories:
        if directory.is_away or not (followed or os.path.lexists(directory.folder)):
            continue
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


def _follow(site: Site, directories: Collection[CloneDirectory]) -> bool:
    """Notes where clones are now whose VM was renamed: VirtualBox moves its folder with all in it.

    False: it is not known now, so nothing that is not where it was may be forgotten.
    """
    moved = [each for each in directories if not os.path.lexists(each.folder)]
    try:
        machines = site.inventory() if moved else {}
        for each in moved:
            if machine := machines.get(each.uuid):
                state_directory = site.configuration.host.state_directory
                folder = Path(machine.settings_file).parent
                CloneDirectory.of(state_directory, folder, each.repository, each.uuid).adopt()
    except (VmBackupError, OSError):
        return False
    return True


def _serves(
    site: Site, directory: CloneDirectory, record: VmRecord | None, kept: KeptClones
) -> bool:
    """Whether the next copy of a VM may be made by its clones, for which there is room."""
    if record is None or not _uses(site, record, kept.stamp):
        return False
    if record.claim is not None:
        return True
    from shared.frozen.store import RoomLimit  # only here: most hosts have no clones

    try:
        limit = RoomLimit(site.configuration.backup.clone_free)
        return not limit.reached(directory.folder)
    except OSError:
        return False


def _uses(site: Site, record: VmRecord, stamp: str) -> bool:
    """Whether the next copy of a VM may be made by what is kept of the copy `stamp`."""
    if record.node != site.node or record.missing_since is not None:
        return False
    if record.claim is not None:
        return True  # whoever holds it is just using it, or making others
    if record.status == State.ARCHIVED or record.last_copy is None:
        return False
    try:
        changed = site.policy(record).changed
    except VmBackupError:
        return False
    return changed == "auto" and record.last_copy.stamp == stamp
