"""Clones of disk images on this host that no backup needs any more."""

from shared.frozen.store import known_directories
from shared.site import Site
from shared.state.contents import Contents


def sweep(site: Site, contents: Contents) -> None:
    """Removes what workers of this host left that died while they exported from clones.

    Also of VMs that were moved or deleted in VirtualBox since. What cannot be removed now a later
    tick removes. `contents` was read before: clones of later claims are left alone.
    """
    live = {record.claim.number for record in contents.vms.values() if record.claim}
    state_directory = site.configuration.host.state_directory
    for directory in known_directories(state_directory, site.database.version.repository):
        directory.remove(lambda claim: claim not in live and claim <= contents.claims_granted)
