"""A NAS and its hosts as machines of their own: one kernel, one page cache, one clock each.

    with Cluster(["a", "b"]) as lan:
        lan["a"].run(["touch", "/mnt/nfs/x"])
        job = lan["b"].spawn(["sleep", "100"])
        lan["b"].cut()

Every client has `/mnt/nfs` (4.2), `/mnt/nfs3` and `/mnt/smb`. Needs network, process and mount
namespaces of its own: run the program under `nas-cluster`, so that nothing of it outlives the
program or meets the machine's own network.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.testbed.nas.configuration import (
    DEFAULT_MOUNTS,
    FIRST_CLIENT_NUMBER,
    SERVER_NUMBER,
    Machine,
    Mounts,
)
from deploy.testbed.nas.machine import (
    ClientMachine,
    ServerMachine,
    VirtualMachine,
    configure_network,
)

#: How a program gets the namespaces that a cluster needs; the command follows.
CONTAINED = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)


class Cluster:
    """The machines, booted together on entering the context and gone after it."""

    def __init__(
        self,
        clients: Sequence[str] = ("a", "b"),
        *,
        memory_mib: int = 512,
        disk_mib: int = 512,
        mounts: Mounts = DEFAULT_MOUNTS,
    ) -> None:
        self._clients = list(clients)
        self._memory_mib = memory_mib
        self._disk_mib = disk_mib
        self._mounts = mounts
        self._directory = Path()
        self.server: ServerMachine
        self._hosts: dict[str, ClientMachine] = {}

    def __enter__(self) -> Self:
        """Boots all machines at the same time. Raises TestBedError if one does not come up."""
        self._directory = Path(tempfile.mkdtemp(prefix="nas-cluster.", dir="/var/tmp"))
        lines = ["link set lo up"]
        for bridge, address in (("data", "10.77.0.254/24"), ("control", "10.78.0.254/24")):
            lines += [
                f"link add {bridge} type bridge",
                f"addr add {address} dev {bridge}",
                f"link set {bridge} up",
            ]
        configure_network(*lines)
        self.server = ServerMachine(
            self._machine("server", "nas", SERVER_NUMBER),
            self._directory,
            self._memory_mib,
            self._disk_mib,
        )
        for number, name in enumerate(self._clients, FIRST_CLIENT_NUMBER):
            self._hosts[name] = ClientMachine(
                self._machine("client", name, number), self._directory, self._memory_mib
            )
        try:
            for machine in self._all():
                machine.start()
            for machine in self._all():
                machine.wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def __getitem__(self, name: str) -> ClientMachine:
        """The host of that name."""
        return self._hosts[name]

    def _machine(self, role: str, name: str, number: int) -> Machine:
        return Machine(role=role, name=name, number=number, mounts=self._mounts)

    def _all(self) -> list[VirtualMachine]:
        return [self.server, *self._hosts.values()]

    def _end(self) -> None:
        for machine in self._all():
            machine.kill()
        configure_network("link del data", "link del control")
        shutil.rmtree(self._directory)
