"""Several hosts and one NAS directory, driven as an operator and cron would.

By the installed programs, each a process of its own.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.copies import catalogue
from shared.copies.catalogue import Copy
from shared.state.records import VmRecord
from shared.state.sessions.host_look import PREFIX
from shared.state.store.snapshot import Snapshot, decode
from tests.support.hosts import VirtualBoxHost
from tests.support.releases import Release
from tests.support.simulated import SimulatedHost

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Its output, which must be one JSON document."""
        return json.loads(self.stdout)


@dataclass
class Member:
    """A host with the programs installed.

    `settings` is TOML by section, added to what every member has.

    `release` is an earlier one whose programs it has, if they are not the present ones.
    """

    fleet: "Fleet"
    host: VirtualBoxHost
    release: Release | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def configuration(self) -> Path:
        return self.fleet.folder / f"{self.name}.toml"

    @property
    def environment(self) -> dict[str, str]:
        packages = {"PYTHONPATH": str(self.release.packages)} if self.release else {}
        return {
            **os.environ,
            **self.host.environment,
            **packages,
            "VMBACKUP_CONFIG": str(self.configuration),
        }

    @property
    def bin(self) -> Path:
        """Where its programs are."""
        return self.release.bin if self.release else BIN

    def configure(self, section: str, **values: Any) -> None:
        """Changes settings and writes the file."""
        self.settings.setdefault(section, {}).update(values)
        tables = [
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in items.items())
            for name, items in self.settings.items()
        ]
        self.configuration.write_text("\n".join(tables), encoding="utf-8")

    def run(self, program: str, *arguments: str, timeout: float = 900) -> Ran:
        """Runs a program to its end. The limit is for one that hangs, not for a slow machine."""
        done = subprocess.run(
            [self.bin / program, *arguments],
            env=self.environment,
            cwd=self.fleet.folder,  # where nothing can be imported
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, program: str, *arguments: str) -> "subprocess.Popen[str]":
        """Starts a program."""
        return subprocess.Popen(
            [self.bin / program, *arguments],
            env=self.environment,
            cwd=self.fleet.folder,  # where nothing can be imported
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def worker(self, *arguments: str, expect: int | None = 0) -> Ran:
        """Runs `vmbackup-worker`.

        AssertionError with its output if it ends otherwise than expected (None: whatever).
        """
        ran = self.run("vmbackup-worker", "-v", *arguments)
        assert expect is None or ran.status == expect, (
            f"{arguments}: exit code {ran.status}\n{ran.stdout}{ran.stderr}"
        )
        return ran

    def admin(self, *arguments: str, expect: int | None = 0) -> Ran:
        """Runs `vmbackup-admin`; see `worker`."""
        ran = self.run("vmbackup-admin", *arguments)
        assert expect is None or ran.status == expect, (
            f"{arguments}: exit code {ran.status}\n{ran.stdout}{ran.stderr}"
        )
        return ran


class Fleet:
    """A NAS directory (`folder/nas` if no other is given) with a state database, and its hosts."""

    def __init__(self, folder: Path, lease_seconds: float = 10, nas: Path | None = None) -> None:
        self.folder, self.lease_seconds = folder, lease_seconds
        self.nas = nas or folder / "nas"
        self.nas.mkdir(parents=True, exist_ok=True)
        self.members: dict[str, Member] = {}

    def add(
        self, host: VirtualBoxHost, mounted_at: Path | None = None, release: Release | None = None
    ) -> Member:
        """Adds a host, which may have its own way to the NAS directory.

        The first one makes the state database, if there is none.
        """
        mountpoint = mounted_at or self.nas
        host.share(mountpoint)
        member = Member(self, host, release)
        self.members[host.name] = member
        member.configure("nas", mountpoint=str(mountpoint), require_mount=False, reserve="1 MiB")
        member.configure("host", state_directory=str(self.folder / f"state-{host.name}"))
        member.configure("backup", retry_seconds=0, retry_interval_seconds=0.2)
        if isinstance(host, SimulatedHost):
            member.configure(
                "backup", engine="vboxmanage"
            )  # whose faults and delays are what the simulation is for
        if len(self.members) == 1 and not (self.nas / "vmstate").exists():
            member.admin("init", "--lease-seconds", str(self.lease_seconds))
        return member

    def head(self) -> Snapshot:
        """The newest generation, read without any code that could repair something."""
        newest = max((self.nas / "vmstate" / "gen").iterdir())
        return decode(
            (newest / "snapshot" if newest.is_dir() else newest).read_bytes(), int(newest.name)
        )

    def record(self, key: str) -> VmRecord:
        """What the database says of a VM."""
        return self.head().contents.vms[key]

    def states(self) -> dict[str, str]:
        """The states of all VMs."""
        return {key: str(record.status) for key, record in self.head().contents.vms.items()}

    def copies(self, key: str) -> tuple[Copy, ...]:
        """The good copies of a VM, oldest first."""
        return catalogue.read(self.nas / self.record(key).directory, None).good

    def litter(self) -> list[str]:
        """What must not be left when nobody works.

        Partial files, temporary files, heartbeats, a lease marker. Hosts' looks stay.
        """
        state = self.nas / "vmstate"
        partial = [path.name for path in self.nas.rglob("*partial*")]
        return [
            *partial,
            *(
                path.name
                for folder in ("tmp", "node")
                for path in (state / folder).iterdir()
                if not path.name.startswith(PREFIX)
            ),
            *([marker.name] if (marker := state / "vmtool-dblock").exists() else []),
        ]
