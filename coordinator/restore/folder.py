"""The folder of a restored VM: made for it alone, and removed with it when the restore fails."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.host.errors import UsageError, VmBackupError
from shared.site import Site
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)

#: How long a folder that was removed must stay away, and how long that is waited for.
_QUIET_SECONDS: Final = 0.5
_GONE_SECONDS: Final = 15.0


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Makes a folder that nobody else has, and its parents.

    Takes the empty ones away again if that fails in the end.
    """
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UsageError(
            f"{folder} is there already; a restore never overwrites anything",
            hint="another name (--as) or place (--to)",
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot make {folder}: {error.strerror}",
            hint="a shorter name (--as) or another place (--to)"
            if error.errno == errno.ENAMETOOLONG
            else "the owner of the VMs must be able to write there",
        ) from None
    try:
        yield
    except BaseException:
        for directory in (folder, *made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


def registered_in(site: Site, folder: Path) -> Machine | None:
    """The VM whose settings file is in `folder`, if there is one. Raises `VBoxManageError`."""
    real = os.path.realpath(folder)
    machines = site.inventory().values()
    return next(
        (
            machine
            for machine in machines
            if os.path.realpath(os.path.dirname(machine.settings_file)) == real
        ),
        None,
    )


def remove_from(site: Site, folder: Path) -> None:
    """Removes what an import has left in a folder that was made for it, the VM included.

    What cannot be removed is reported.
    """
    try:
        machine = registered_in(site, folder)
        if machine is not None:
            BootCheck(site.vboxmanage, site.clock, machine).remove()
        if not _remove_for_good(site, folder):
            log.error("what was imported could not be removed from %s", folder)
    except VmBackupError as error:
        log.error(("what was imported could not be removed from %s: %s"), folder, error.message)  # noqa: TRY400 - an operator's message


def _remove_for_good(site: Site, folder: Path) -> bool:
    """Removes a folder until it stays away; False if it does not.

    VBoxSVC may still write settings when an import was cancelled.
    """
    end = site.clock.monotonic() + _GONE_SECONDS
    while os.path.lexists(folder):
        if site.clock.monotonic() > end:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        site.clock.sleep(_QUIET_SECONDS)
    return True
