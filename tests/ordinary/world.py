"""A NAS, two simulated hosts and what lies beside them, in one folder that can be put back as it
was; the oracle looks after each step.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.crash.world import Programs, Ran
from tests.ordinary.looking import Places, View
from tests.ordinary.mounts import Mounts
from tests.ordinary.oracle import Diary, Step
from tests.ordinary.quick import MACHINE
from tests.support.simulated import SimulatedHost, SimulatedVm, power
from tests.support.simulated.state import exports

HOSTS: Final = ("alpha", "beta")
ADMIN, WORKER, LOCK = "vmbackup-admin", "vmbackup-worker", "vmbackup-lock"
#: What cron does in a tick; the verifying worker has nothing to do in a table that lasts no month.
TICK: Final = ("vmfind", "notifier", "database", "backup")
_PLANTED: Final = {
    "nas/photos/cat.jpg": "a cat",
    "nas/notes.txt": "whoever mounted this",
    "nas/@eaDir/x": "of the NAS's maker",
    "nas-other/20261122T203800Z-1.ova": "a neighbour's file of a tempting name",
    "home/alpha/important.txt": "the user's",
    "x/precious": "beside the NAS",
}


class WrongError(AssertionError):
    """What the oracle found."""


@dataclass
class World:
    """See the module. `folder/world` is all of it.

    `mutants` are faults that are put into the programs.
    """

    folder: Path
    programs: Programs
    mutants: Sequence[str] = ()
    archive: str = "archive"
    archives: tuple[Path, ...] = ()
    backup: dict[str, Any] = field(default_factory=dict)
    nas_settings: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    machine_ids: dict[str, str] = field(default_factory=dict)
    diary: Diary = field(default_factory=Diary)
    told: list[str] = field(default_factory=list)
    kept: dict[str, Diary] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place = self.folder / "world"
        self.mounts = Mounts()
        self.fresh()

    def fresh(self) -> None:
        """Begins anew: an empty NAS, hosts without VMs."""
        self.mounts.end()
        self.diary = Diary()
        shutil.rmtree(self.place, ignore_errors=True)
        self.aside.mkdir(parents=True, exist_ok=True)
        for name, text in _PLANTED.items():
            (self.place / name).parent.mkdir(parents=True, exist_ok=True)
            (self.place / name).write_text(text, encoding="utf-8")
        self.hosts = {name: SimulatedHost(self.place / "hosts", name) for name in HOSTS}
        self.configure("archive")

    @property
    def nas(self) -> Path:
        return self.place / "nas"

    @property
    def state(self) -> Path:
        return self.nas / "vmstate"

    @property
    def aside(self) -> Path:
        """What the test itself keeps."""
        return self.place / "kept-elsewhere"

    def notes(self, host: str = "alpha") -> Path:
        """Where a host keeps what it knows."""
        return self.place / f"state-{host}"

    def configure(self, archive: str | None = None, *archives: Path) -> None:
        """Writes the configurations of all hosts. `archives`: where copies may be but the NAS."""
        self.archive, self.archives = self.archive if archive is None else archive, archives
        for name in HOSTS:
            nas = {
                "mountpoint": str(self.nas),
                "archive_directory": self.archive,
                "require_mount": False,
                "reserve": 0,
            }
            tables = {
                "nas": {**nas, **self.nas_settings},
                "host": {
                    "node": self.nodes.get(name, name),
                    "state_directory": str(self.notes(name)),
                },
                "backup": {
                    "retry_seconds": 0,
                    "retry_interval_seconds": 0.1,
                    "engine": "vboxmanage",
                    **self.backup,
                },
                "page": {"file": ""},  # it changes at each tick, and is looked at elsewhere
            }
            lines = [
                f"[{table}]\n"
                + "".join(f"{key} = {json.dumps(value)}\n" for key, value in rows.items())
                for table, rows in tables.items()
            ]
            self.configuration(name).write_text("\n".join(lines), encoding="utf-8")

    def configuration(self, host: str) -> Path:
        return self.place / f"{host}.toml"

    def look(self) -> View:
        """What is there now."""
        own = (
            [self.aside]
            + [self.notes(name) for name in HOSTS]
            + [self.configuration(name) for name in HOSTS]
        )
        homes = {name: self.place / "hosts" / name for name in HOSTS}
        return Places(self.place, self.nas, homes, self.archives, tuple(own)).look()

    def run(self, *command: str, host: str = "alpha") -> Ran:
        """Runs a program to its end, whatever comes of it; the oracle is not asked."""
        environment = {
            **os.environ,
            **self.hosts[host].environment,
            **({MACHINE: self.machine_ids[host]} if host in self.machine_ids else {}),
            "VMBACKUP_NODE": self.nodes.get(host, host),
            "VMBACKUP_CONFIG": str(self.configuration(host)),
            "HOME": str(self.place / "home" / host),
        }
        ran = self.programs.run(
            command, environment, [], mutants=["tests.ordinary.quick:quick", *self.mutants]
        )
        assert "unexpected " not in ran.output, f"{' '.join(command)}: {ran.output}"
        self.told.append(f"{host}$ {' '.join(command)} -> {ran.status}\n{ran.output}")
        return ran

    def step(
        self, *command: str, host: str = "alpha", allowed: Sequence[int] | None = None, **may: Any
    ) -> Ran:
        """Runs a program and lets the oracle judge; `may`: see `Step`.

        `allowed`: the exit codes that are right.
        """
        before = self.look()
        ran = self.run(*command, host=host)
        self.judge(before, Step(" ".join(command), ran.status, **may))
        assert allowed is None or ran.status in allowed, self.story(
            f"{command} ended with {ran.status}"
        )
        return ran

    def judge(self, before: View, step: Step) -> View:
        """Raises `WrongError` with everything that the oracle has to say."""
        after = self.look()
        if wrong := self.diary.judge(before, after, step):
            raise WrongError(self.story("\n".join(wrong)))
        return after

    def story(self, end: str) -> str:
        """What was run, and what was said."""
        return "\n".join([*self.told[-12:], end])

    def tick(self, host: str = "alpha", **may: Any) -> list[int]:
        """What cron does; CLEAN must be true after it. Answers the exit codes."""
        before = self.look()
        codes = [self.run(WORKER, "-v", worker, host=host).status for worker in TICK]
        worst = 0 if any(code in (0, 3, 4) for code in codes) else max(codes)
        settles = frozenset({host}) if all(code in (0, 3, 4) for code in codes) else frozenset()
        self.judge(
            before, Step(f"a tick on {host} {codes}", worst, retains=True, settles=settles, **may)
        )
        return codes

    def make(self, name: str, host: str = "alpha") -> SimulatedVm:
        """A new VM with a disk of its own content."""
        vm = self.hosts[host].make_vm(name, mib=4, random_mib=1)
        self.diary.use(vm.uuid)
        return vm

    def vm(self, name: str, host: str = "alpha") -> SimulatedVm:
        """The VM of that name."""
        found = next(vm for vm in self.look().vms[host].values() if vm.name == name)
        return SimulatedVm(self.hosts[host], found.uuid, name)

    def use(self, *vms: SimulatedVm) -> None:
        """Each is started, counts on its disk, and is stopped."""
        for vm in vms:
            with vm.host.state(changes=True) as host:
                machine = host.machines[vm.uuid]
                power.start(host, machine)
                power.end(host, machine, "poweroff")
            self.diary.use(vm.uuid)

    def key(self, vm: SimulatedVm) -> str | None:
        """Under which key the database knows a VM; None if it does not."""
        return next(
            (key for key, record in self.look().records.items() if record["uuid"] == vm.uuid), None
        )

    def document(self, *command: str, host: str = "alpha") -> tuple[int, Mapping[str, Any]]:
        """Exit code and JSON of a reading command; empty if it printed none."""
        ran = self.run(*command, host=host)
        begin, end = ran.output.find("{\n"), ran.output.rfind("\n}")
        return ran.status, json.loads(
            ran.output[begin : end + 2]
        ) if begin >= 0 and ran.status == 0 else {}

    def remember(self, name: str) -> None:
        """Notes how everything is now."""
        assert not any(exports(str(host.home)) for host in self.hosts.values())
        kept = self.folder / "kept" / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--sparse=always", self.place, kept], check=True)

    def recall(self, name: str) -> bool:
        """Puts everything as it was, mounts and settings included.

        False if nothing was noted under that name.
        """
        kept = self.folder / "kept" / name
        self.mounts.end()
        if kept.is_dir():
            shutil.rmtree(self.place)
            subprocess.run(["cp", "-a", "--sparse=always", kept, self.place], check=True)
            self.configure("archive")
        return kept.is_dir()
