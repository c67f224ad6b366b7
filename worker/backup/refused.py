"""VMs whose newest copy VirtualBox would not import: not exported anew at each tick for nothing."""

from typing import Final

from shared.copies import chronology
from shared.copies.catalogue import Catalogue, Copy
from shared.copies.names import final_name
from shared.host.clock import is_over
from shared.host.errors import CopyError
from shared.nas.reading import read_file
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import MAXIMUM_BYTES, SettingsError, parse_machine
from worker.backup.work import Work

#: After so long it is exported all the same: its disks may be other ones by then, and those of the
#: copy are whole.
_AGAIN_SECONDS: Final = 86400.0


def refuse_same_again(work: Work, machine: Machine, copies: Catalogue) -> None:
    """Raises `CopyError` if VirtualBox would hardly import the next copy, as it would not the last.

    That is, if that is less than a day old, and settings and VirtualBox are the same still.
    """
    newest = chronology.newest_first(copy for copy in copies.copies if copy.good or copy.refused)
    if not newest or not newest[0].refused or (sidecar := newest[0].sidecar) is None:
        return
    if is_over(work.site.clock.now(), sidecar.finished, _AGAIN_SECONDS):
        return
    if sidecar.virtualbox != work.site.vboxmanage.version():
        return
    if machine.settings is None or _digest(newest[0]) != machine.settings.digest:
        return
    raise CopyError(
        f"its copy {sidecar.stamp} is kept, but does not count: {newest[0].problem}",
        hint="change that in VirtualBox; as it is, it is tried again once a day, or by "
        "`vmbackup-worker backup --vm`",
    )


def _digest(copy: Copy) -> str:
    """That of the settings of which the copy was made; empty if they cannot be read."""
    path = copy.directory / final_name(copy.stamp, "vbox")
    try:
        return parse_machine(read_file(path, MAXIMUM_BYTES, follow=False)).digest
    except (OSError, SettingsError):
        return ""
