"""The real programs on the hosts of the test cluster.

A NAS directory with copies, mounted by two hosts with simulated VirtualBox.

A template is made once, on this machine's own disk; a site is a copy of it on the NAS and on the
hosts, made in a second. Host `a` has the VM `web`, which is due, and `b` has `mail`; there are two
copies of each. What a host has on its own disk survives its power cuts.
"""

import json
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from deploy.testbed.nas.cluster import Cluster
from deploy.testbed.nas.configuration import FIRST_CLIENT_NUMBER
from deploy.testbed.nas.job import Job
from deploy.testbed.nas.kernel import PROJECT
from shared.copies import catalogue
from shared.copies.archive_marker import prepare_archive
from shared.copies.copy_files import NasFiles
from shared.host.clock import SystemClock
from shared.host.configuration import Configuration
from shared.host.host_identity import HostIdentity
from shared.nas.mount import NasStatus
from shared.site import Site
from shared.state.store.create import create
from shared.state.store.opening import open_database
from tests.crash import halted
from tests.crash.doors import Moment
from tests.support.nas_truth import Truth
from tests.support.simulated import SimulatedHost, SimulatedVm
from worker import notifier, vmfind
from worker.backup import worker as backup

K = TypeVar("K")
V = TypeVar("V")

VMS: Final = {"a": "web", "b": "mail"}
#: Short, but a machine that is busy must not fall silent for most of it. `init` allows 10.
LEASE_SECONDS: Final = 15.0
_BIN: Final = Path(sys.executable).parent
_LIMIT_SECONDS: Final = 300

#: Copies the host's part of the template ($1, made at the path $2) to $3, writes its configuration
#: ($4), and makes its mount point.
_MOVE_IN: Final = """
mkdir -p "$3/nas"
cp -a "$1/." "$3/host"
find "$3/host" -type f ! -name '*.vdi' -exec sed -i "s#$2#$3/host#g" {} +
printf %s "$4" >"$3/config.toml"
"""


class Template:
    """What every site begins with.

    With `namesakes` host b also has a VM `web`, which is `web@b` in the database.
    """

    def __init__(self, lan: Cluster, folder: Path, *, namesakes: bool = False) -> None:
        self.folder, self._nas = folder, folder / "nas"
        self.name = "namesakes" if namesakes else "template"
        self._nas.mkdir()
        self._identities = {
            name: _identity(name, number) for number, name in enumerate(VMS, FIRST_CLIENT_NUMBER)
        }
        self._hosts = {name: SimulatedHost(folder / "hosts", name) for name in VMS}
        names = {name: [vm] for name, vm in VMS.items()}
        if namesakes:
            names["b"].append("web")
        vms = {
            name: [self._hosts[name].make_vm(vm, random_mib=2) for vm in names[name]]
            for name in VMS
        }
        create(self._nas / "vmstate", self._identities["b"], SystemClock(), LEASE_SECONDS)
        for name, those in vms.items():
            for _ in range(2):
                self._use(name, those)
                assert len(backup.run(self._site(name)).done) == len(those)
        self._use("a", vms["a"])
        records = self._site("a").database.head().contents.vms
        #: Where the copies of each VM are.
        self.directories = {key: record.directory for key, record in records.items()}
        #: The good copies, by directory.
        self.stamps = {
            directory: sorted(
                copy.stamp for copy in catalogue.read(self._nas / directory, None).good
            )
            for directory in self.directories.values()
        }
        self._hand_out(lan)

    def _use(self, name: str, vms: Iterable[SimulatedVm]) -> None:
        """The VMs of a host are used, and their backups are due."""
        for vm in vms:
            vm.start()
            vm.stop()
        site = self._site(name)
        vmfind.run(site)
        notifier.run(site)

    def _site(self, name: str) -> Site:
        host = self._hosts[name]
        configuration = Configuration.model_validate(
            {
                "nas": {"mountpoint": self._nas, "require_mount": False, "reserve": 0},
                "host": {"node": name, "state_directory": self.folder / f"state-{name}"},
                "virtualbox": {"vboxmanage": str(host.vboxmanage), "home": host.home},
                "backup": {"retry_seconds": 0},
                "policy": {},
            }
        )
        clock = SystemClock()
        database = open_database(configuration.nas.state, self._identities[name], clock)
        files = NasFiles()
        prepare_archive(files, configuration.nas, database.version.repository)
        return Site(
            configuration,
            clock,
            self._identities[name],
            database,
            NasStatus(self._nas, 0, 0, None),
            files,
        )

    def _hand_out(self, lan: Cluster) -> None:
        """Puts the parts where the machines see them."""
        shutil.copytree(self._nas, lan.server.shared / self.name)
        for name, host in self._hosts.items():
            shutil.copytree(host.folder, lan[name].shared / self.name)


def _identity(name: str, number: int) -> HostIdentity:
    """The machine that the host of the cluster will be, in an earlier life."""
    return HostIdentity(name, name, f"{number:032x}", "before", "pid:[1]")


class ClusterSite:
    """A copy of the template: on the NAS, and on both hosts."""

    def __init__(self, lan: Cluster, template: Template, kind: str, **settings: object) -> None:
        self.kind, self._lan, self._template = kind, lan, template
        self.name = uuid.uuid4().hex[:10]
        self._settings = {
            "retry_seconds": 5,
            "retry_interval_seconds": 0.2,
            "stall_seconds": 60,
            **settings,
        }
        self.directory = f"/srv/nas/{'smb' if kind == 'smb' else 'nfs'}/{self.name}"
        lan.server.check(
            "sh",
            "-ec",
            'cp -a "$1" "$2" && sync -f "$2"',
            "sh",
            f"{lan.server.shared}/{template.name}",
            self.directory,
        )
        for host in VMS:
            self.move_in(host)
        self.before = template.stamps

    @property
    def place(self) -> str:
        """Where it is on the hosts: `host` (VirtualBox), `nas` (the mount point), `config.toml`."""
        return f"/sites/{self.name}"

    @property
    def nas(self) -> str:
        """The mount point on the hosts."""
        return f"{self.place}/nas"

    def move_in(self, host: str) -> None:
        """Brings it to a host, for the first time or after a power cut."""
        machine = self._lan[host]
        tables: dict[str, dict[str, object]] = {
            "nas": {"mountpoint": self.nas, "reserve": "1 MiB", "probe_seconds": 12},
            "host": {"node": host, "state_directory": f"{machine.shared}/state-{self.name}"},
            "virtualbox": {
                "vboxmanage": f"{self.place}/host/VBoxManage",
                "home": f"{self.place}/host/config",
            },
            "backup": self._settings,
        }
        text = "\n".join(
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in tables.items()
        )
        template = f"{self._template.folder}/hosts/{host}"
        machine.check(
            "sh",
            "-ec",
            _MOVE_IN,
            "sh",
            f"{machine.shared}/{self._template.name}",
            template,
            self.place,
            text,
        )
        self.mount(host)

    def mount(self, host: str, directory: str | None = None) -> None:
        """Mounts its directory on the NAS, or another one."""
        self._lan[host].check(
            "mount", "--bind", f"/mnt/{self.kind}/{directory or self.name}", self.nas
        )

    def unmount(self, host: str) -> None:
        """Takes the mount away while it is used; the empty mount point stays."""
        self._lan[host].check("umount", "-l", self.nas)

    def fault(self, host: str, **faults: Any) -> None:
        """Sets the faults of the host's VirtualBox, in place of those that are set."""
        path = f"{self.place}/host/config/faults.json"
        self._lan[host].check(
            "sh",
            "-ec",
            'printf %s "$2" >"$1.new" && mv "$1.new" "$1"',
            "sh",
            path,
            json.dumps(faults),
        )

    def spawn(self, host: str, *command: str) -> Job:
        """Starts a program on a host."""
        return self._spawn(host, [str(_BIN / command[0]), *command[1:]])

    def spawn_halted(
        self, host: str, moment: Moment, parts: Sequence[str], *command: str, below: str = ""
    ) -> Job:
        """Starts a program that halts before or after the crash point with these parts in its name,
        and waits until it has. Points are writes to the NAS, or to what is `below`.
        """
        root = below or self.nas
        job = self._spawn(host, halted.command(root, moment, f"{self.place}/go", parts, command))
        job.wait_for("halted at", _LIMIT_SECONDS)
        return job

    def let_go(self, host: str) -> None:
        """Lets the program go on that halted."""
        self._lan[host].check("touch", f"{self.place}/go")

    def _spawn(self, host: str, command: Sequence[str]) -> Job:
        environment = {"PYTHONPATH": str(PROJECT), "VMBACKUP_CONFIG": f"{self.place}/config.toml"}
        return self._lan[host].spawn(command, directory=str(PROJECT), environment=environment)

    def run(self, host: str, *command: str) -> tuple[int, str]:
        """Runs a program on a host to its end: its status and output."""
        with self.spawn(host, *command) as job:
            return job.wait(_LIMIT_SECONDS), job.output

    def wait_for_export(self, job: Job) -> None:
        """Waits until the VM of host a is being exported by `job`."""
        end = time.monotonic() + _LIMIT_SECONDS
        while self._lan.server.run(["sh", "-c", f"ls {self.directory}/web/.*.partial.ova"])[0]:
            if time.monotonic() > end:
                ended = job.wait(1)  # raises with what it has said if it has not ended
                raise AssertionError(
                    f"no export begins; it ended with status {ended}:\n{job.output}"
                )
            time.sleep(0.2)

    def make_directory(self, name: str) -> str:
        """Makes another directory beside its own on the NAS, and answers its name there."""
        self._lan.server.check("mkdir", f"{self.directory}-{name}")
        return f"{self.name}-{name}"

    def found(self, host: str, directory: str) -> None:
        """Makes a state database in another directory on the NAS."""
        other = f"{self.place}/other"
        self._lan[host].check(
            "sh",
            "-ec",
            'mkdir "$2" && mount --bind "$1" "$2"',
            "sh",
            f"/mnt/{self.kind}/{directory}",
            other,
        )
        command = [
            "env",
            f"NAS_MOUNTPOINT={other}",
            f"VMBACKUP_CONFIG={self.place}/config.toml",
            str(_BIN / "vmbackup-admin"),
            "init",
        ]
        self._lan[host].check(*command)
        self._lan[host].check("umount", other)

    def names_in_mount_point(self, host: str) -> list[str]:
        """What is in the directory under the mount, when nothing is mounted."""
        return self._lan[host].check("ls", "-A", self.nas).split()

    def remove(self) -> None:
        """Removes it from the NAS and from the hosts."""
        for host in VMS:
            self._lan[host].run(["sh", "-c", f"umount -l {self.nas}; rm -rf {self.place}"])
        self._lan.server.run(["sh", "-c", f"rm -rf {self.directory}*"])


def at_once(work: Callable[[K], V], items: Iterable[K]) -> dict[K, V]:
    """Does something for each, all at the same time."""
    keys = list(items)
    with ThreadPoolExecutor(len(keys)) as pool:
        return dict(zip(keys, pool.map(work, keys), strict=True))


def look(lan: Cluster, questions: Mapping[ClusterSite, Mapping[str, Any]]) -> list[Truth]:
    """Looks at what is on the NAS, see `nas_truth.Question`.

    That the older copies are still there is always asked.
    """
    asked = {
        site.directory: {"before": site.before, **question} for site, question in questions.items()
    }
    status, output = lan.server.run(
        [sys.executable, "-m", "tests.support.nas_truth", json.dumps(asked)],
        environment={"PYTHONPATH": str(PROJECT)},
        timeout_seconds=_LIMIT_SECONDS,
    )
    assert status == 0, output
    answers = json.loads(output)
    return [Truth(**answers[directory]) for directory in asked]


def together(jobs: Mapping[K, Job]) -> dict[K, tuple[int, str]]:
    """Waits for all of them: status and output of each."""
    ended = {}
    for key, job in jobs.items():
        with job:
            ended[key] = (job.wait(_LIMIT_SECONDS), job.output)
    return ended
