"""Machines that this program itself makes and removes: the clones of live backups and rehearsed restores. They are nobody's VMs."""

import re
from typing import Final

from shared.virtualbox.inventory import Machine

_NAME: Final = re.compile(r"vmbackup-([1-9][0-9]{0,17}|rehearsal-\S+)")


def is_scratch(machine: Machine) -> bool:
    """Whether the machine bears a name that only this program gives: `vmbackup-<claim>` or `vmbackup-rehearsal-<stamp>`."""
    return machine.name is not None and _NAME.fullmatch(machine.name) is not None
