"""By which programs a copy is mounted on this host."""

import shutil
from collections.abc import Callable, Sequence
from enum import StrEnum, unique
from typing import Final

from shared.host.errors import ConfigurationError
from shared.serving import places
from shared.serving.server_ending import MODULE, PARENT_MODULE
from shared.serving.starting import PYTHON

#: Those of the second way.
PROGRAMS: Final = ("nbdfuse", "qemu-nbd")


@unique
class MountWay(StrEnum):
    """Who reads the disks of a copy, and shows them: we, or programs of others."""

    OWN = "mfusepy"
    OTHERS = "qemu-nbd"

    def server(self, place: str) -> Sequence[str]:
        """The program that mounts a copy there so."""
        module = {MountWay.OWN: MODULE, MountWay.OTHERS: PARENT_MODULE}[self]
        return (*PYTHON, module, place)

    @property
    def seconds(self) -> float:
        """So long it takes at most until the files are there; the second reads all tables first."""
        return {MountWay.OWN: 120.0, MountWay.OTHERS: 1800.0}[self]


def choose(
    own: Callable[[], None] | None = None, which: Callable[[str], str | None] = shutil.which
) -> MountWay:
    """The way that is possible here, our own before the other.

    Raises `ConfigurationError`, with what to install for either, if none is.
    """
    try:
        (own or places.require_fuse)()
    except places.NoDeviceError:
        raise
    except ConfigurationError as error:
        if not all(map(which, PROGRAMS)):
            hint = f"{error.hint}; or use nbdfuse and qemu-nbd: `apt install libnbd-bin qemu-utils"
            raise ConfigurationError(error.message, hint=f"{hint} fuse3`") from None
        places.require_device()
        return MountWay.OTHERS
    return MountWay.OWN
