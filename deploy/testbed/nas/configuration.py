"""What a machine of the test bed is told when it boots.

A file in its job directory, the one directory shared read-write with it.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

#: Machine numbers: the last byte of addresses. The server is always the first, clients count from
#: here.
SERVER_NUMBER = 1
FIRST_CLIENT_NUMBER = 11

#: Where the agent of a cluster machine listens, on the control network.
AGENT_PORT = 7000


@dataclass(frozen=True, slots=True)
class Mounts:
    """Options of the clients' mounts.

    The defaults are those that an administrator gets without naming any.
    """

    nfs_options: str = "hard"
    smb_options: str = "soft"
    #: Seconds after which the server forgets a silent NFS 4 client; Linux servers have 90.
    nfs_lease_seconds: int = 10
    nfs_grace_seconds: int = 10


DEFAULT_MOUNTS = Mounts()


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: `role` is `all` (server and clients in one kernel), `server` or `client`."""

    role: str
    name: str
    number: int = SERVER_NUMBER
    mounts: Mounts = DEFAULT_MOUNTS
    #: Names of the clients, when they live in this kernel.
    clients: tuple[str, ...] = ()
    #: What to run when everything is up (role `all`), where, and for how long at most.
    command: tuple[str, ...] = ()
    directory: str = "/"
    limit_seconds: float = 300

    @property
    def data_address(self) -> str:
        """Where it is reached by NFS and SMB."""
        return f"10.77.0.{self.number}"

    @property
    def control_address(self) -> str:
        """Where its agent is reached, also while the data network is cut."""
        return f"10.78.0.{self.number}"

    def save(self, job: Path) -> None:
        """Writes the configuration into the job directory."""
        (job / "machine.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, job: Path) -> "Machine":
        """The inverse of `save`."""
        values = json.loads((job / "machine.json").read_text(encoding="utf-8"))
        machine = cls(**values)
        return replace(
            machine,
            mounts=Mounts(**values["mounts"]),
            clients=tuple(machine.clients),
            command=tuple(machine.command),
        )


def server_address() -> str:
    """The data address of a cluster's server."""
    return f"10.77.0.{SERVER_NUMBER}"
