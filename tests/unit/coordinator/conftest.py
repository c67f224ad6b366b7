"""An operator at a host.

The programs run in this process on a plain directory that stands for the NAS.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from coordinator.admin import program as admin_program
from coordinator.lock import program as lock_program
from shared.copies.archive_marker import prepare_archive
from shared.copies.copy_files import NasFiles
from shared.host.clock import SystemClock
from shared.host.configuration import Configuration, load
from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.site import Site, open_site
from shared.state.contents import Contents
from shared.state.records import CopyRecord, VmRecord
from shared.state.rules import claims, sightings
from shared.state.rules.sightings import Sighting
from shared.state.sessions.session import Session
from shared.state.states import State
from shared.state.store import reserve
from shared.state.store.create import create
from shared.state.store.database import Database
from shared.state.store.opening import open_database
from shared.state.store.protocol import Change
from tests.support.copies import UUID

LEASE_SECONDS = 1.0
WHEN = "2026-11-22T20:38:00Z"


def uuid(number: int) -> str:
    """That of the VM added as number so and so.

    The first one has that of the copies which `put_copy` makes.
    """
    return f"00000000-0000-4000-8000-{number:012d}" if number else UUID


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for an operator has whole commands run, on a database that is made for that."""
    for item in items:
        if "operator" in getattr(item, "fixturenames", ()):
            item.add_marker("broad")


@dataclass
class Operator:
    """What a person at a terminal can do, and what tests need to look behind the scenes."""

    folder: Path
    node: str = "alpha"
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def nas(self) -> Path:
        return self.folder / "nas"

    @property
    def vmstate(self) -> Path:
        return self.nas / "vmstate"

    @property
    def config(self) -> Path:
        return self.folder / f"{self.node}.toml"

    def configure(self, **nas: Any) -> None:
        tables = {
            "nas": {"mountpoint": str(self.nas), "require_mount": False, "reserve": 0, **nas},
            "host": {"node": self.node, "state_directory": str(self.folder / f"state-{self.node}")},
            "virtualbox": {"vboxmanage": str(self.folder / "no-VBoxManage")},
            "page": {"file": ""},
            **self.settings,
        }
        lines = [
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
            for name, values in tables.items()
        ]
        self.config.write_text("\n".join(lines), encoding="utf-8")

    def admin(self, *arguments: str) -> Result:
        return self._run(admin_program, arguments)

    def lock(self, *arguments: str) -> Result:
        return self._run(lock_program, arguments)

    def json(self, *arguments: str, program: click.Command = admin_program) -> Any:
        result = self._run(program, (*arguments, "--json"))
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def _run(self, program: click.Command, arguments: tuple[str, ...]) -> Result:
        return CliRunner(env={"VMBACKUP_CONFIG": str(self.config)}).invoke(program, arguments)

    def create(self, lease_seconds: float = LEASE_SECONDS) -> None:
        """What `init` does."""
        made = create(
            self.vmstate, HostIdentity.of_this_machine(self.node), SystemClock(), lease_seconds
        )
        prepare_archive(NasFiles(), self.configuration.nas, made.version.repository)
        with (self.vmstate / reserve.NAME).open("wb") as file:
            file.truncate(reserve.wanted(self.vmstate))  # of that size, and written at once

    def site(self) -> Site:
        return open_site(self.configuration, SystemClock())

    def database(self, **identity: str) -> Database:
        """The database without a look at the NAS, which takes a process each time."""
        here = replace(HostIdentity.of_this_machine(self.node), **identity)
        return open_database(self.vmstate, here, SystemClock())

    @property
    def configuration(self) -> Configuration:
        return load(str(self.config), {})

    @property
    def contents(self) -> Contents:
        return self.database().head().contents

    def record(self, key: str) -> VmRecord:
        return self.contents.vms[key]

    def commit(self, change: Change, reason: str = "test", **identity: str) -> None:
        """Commits; `identity` replaces what this machine is.

        Its machine id, its host name, its boot.
        """
        self.database(**identity).commit_once(change, reason, "test")

    def session(
        self, worker: str = "backup", process: ProcessIdentity | None = None, **identity: str
    ) -> Session:
        """A session, of another machine if `identity` says so, of this process if of no other."""
        return self.database(**identity).session(worker, process)

    def dead_session(self, worker: str = "backup") -> Session:
        """One whose process is gone: silent, and its process number unused."""
        session = self.session(worker, gone_process()).__enter__()
        fall_silent(session)
        return session

    def add_vms(self, *names: str, node: str | None = None) -> None:
        """VMs that a host lists, NEW."""
        known = len(self.contents.vms)
        seen = [
            Sighting(record.uuid, record.name, record.directory)
            for record in self.contents.vms.values()
            if record.node == (node or self.node)
        ]
        seen += [Sighting(uuid(known + number), name, name) for number, name in enumerate(names)]
        self.commit(
            lambda contents: sightings.sight(contents, node or self.node, seen, WHEN),
            f"found {', '.join(names)}",
        )

    def set(self, key: str, **values: Any) -> None:
        """Changes a record behind everybody's back."""
        self.commit(lambda contents: contents.with_vm(replace(contents.vms[key], **values)))

    def claim(self, session: Session, key: str, purpose: Any = "backup") -> None:
        if purpose == "backup":
            self.set(key, status=State.BACKUP_NECESSARY)
        session.commit(
            lambda contents: claims.grant(contents, key, session.id, purpose, WHEN), f"claim {key}"
        )


def copy(stamp: str = "20261122T203800Z-17", size: int = 15, **fingerprint: str) -> CopyRecord:
    return CopyRecord(stamp, int(stamp.rpartition("-")[2]), size, "0" * 64, WHEN, fingerprint)


@pytest.fixture
def operator(tmp_path: Path, probe_in_this_process: None) -> Operator:
    """An operator at the host alpha, whose NAS is empty."""
    made = Operator(tmp_path)
    made.nas.mkdir()
    made.configure()
    return made


@pytest.fixture
def site_with_database(operator: Operator) -> Operator:
    """The same with a state database."""
    operator.create()
    return operator


def fall_silent(session: Session) -> None:
    """Stops the heartbeat of a session as a power cut does: its file and its rows stay."""
    assert session.heartbeat.cease()


def gone_process() -> ProcessIdentity:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    process.communicate(timeout=30)
    assert identity is not None
    return identity
