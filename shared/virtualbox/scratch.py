"""Machines that this program itself makes and removes: the clones of live backups and rehearsed restores. They are nobody's VMs."""

import re
from typing import Final

from shared.virtualbox.inventory import Machine

_CLONE: Final = re.compile(r"vmbackup-[1-9][0-9]{0,17}")
_REHEARSAL: Final = re.compile(r"vmbackup-rehearsal-[0-9]{8}T[0-9]{6}Z-[1-9][0-9]{0,17}")


def is_scratch(machine: Machine) -> bool:
    """Whether the machine bears a name that only this program gives: `vmbackup-<claim>` or `vmbackup-rehearsal-<stamp>`."""
    return machine.name is not None and (_CLONE.fullmatch(machine.name) is not None or is_rehearsal_name(machine.name))


def is_rehearsal(machine: Machine) -> bool:
    """Whether the machine is a rehearsed restore."""
    return machine.name is not None and is_rehearsal_name(machine.name)


def rehearsal_name(stamp: str) -> str:
    """What the rehearsed restore of the copy `stamp` is called."""
    return f"vmbackup-rehearsal-{stamp}"


def is_rehearsal_name(name: str) -> bool:
    """The inverse of `rehearsal_name`."""
    return _REHEARSAL.fullmatch(name) is not None
