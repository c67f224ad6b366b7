"""Looks at single VMs: one serves all steps of a backup between which nothing happened.

Each VBoxManage call takes 0.1 s, and now and then ten; a look at all VMs reads the settings of
each.
"""

from typing import Final

from shared.site import Site
from shared.virtualbox.inventory import Machine

#: Steps that follow each other faster than this see the same VM. It may be started all the same:
#: the export asks once more when it holds the disks, and the fingerprint is compared afterwards.
RECENT_SECONDS: Final = 2.0


class Looks:
    """The last look at each VM of this host, by one worker."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._seen: dict[str, tuple[float, Machine]] = {}

    def now(self, uuid: str) -> Machine | None:
        """Looks at a VM; None if it is not registered. Raises `VBoxManageError`."""
        self.forget(uuid)
        moment = self._site.clock.boottime()
        machine = self._site.machine(uuid)
        if machine is not None:
            self._seen[uuid] = (moment, machine)
        return machine

    def recent(self, uuid: str) -> Machine | None:
        """The last look, if it was begun a moment ago and nothing happened since; else a new one.

        Raises `VBoxManageError`.
        """
        moment, machine = self._seen.get(uuid, (0.0, None))
        if machine is None or self._site.clock.boottime() - moment > RECENT_SECONDS:
            return self.now(uuid)
        return machine

    def forget(self, uuid: str) -> None:
        """Something was done that may have changed the VM: the next look is a new one."""
        self._seen.pop(uuid, None)
