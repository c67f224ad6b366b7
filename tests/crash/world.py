"""One host with simulated VirtualBox, one NAS directory, and its programs as processes that can be
killed at a crash point.

The whole world lies in one folder and can be put back as it was: each crash starts from the same
state.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shared.state.records import VmRecord
from shared.state.store.snapshot import Snapshot, decode
from tests.crash.doors import Kill, Point
from tests.support.simulated import SimulatedHost

PROJECT: Final = Path(__file__).resolve().parents[2]
KILLED: Final = -9
_LIMIT_SECONDS: Final = 90
#: What a worker would wait for in vain: nothing of this host is left for others to judge.
LEASE_SECONDS: Final = 10


@dataclass(frozen=True)
class Ran:
    """How a program ended (a negative status: the signal), what it said, and the crash points that
    it passed.
    """

    status: int
    output: str
    points: tuple[Point, ...]


class Programs:
    """Starts programs by way of a process that has them loaded."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._folder = Path(tempfile.mkdtemp(prefix="vmbackup-crash."))
        self._number = 0

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        roots: Sequence[Path],
        *,
        kill: Kill | None = None,
        settings: Mapping[str, Any] | None = None,
        mutants: Sequence[str] = (),
        umask: int = 0o022,
        user: tuple[int, int] | None = None,
        commands: bool = False,
    ) -> Ran:
        """Runs a program to its end.

        `commands`: what it tells VirtualBox is a crash point, too.

        `settings` are constants of the product, by dotted name, that are different for this run.

        `user` (uid, gid) runs it as somebody else.
        """
        output, points = (
            self._folder / f"output-{self._number}",
            self._folder / f"points-{self._number}",
        )
        self._number += 1
        request = {
            "number": self._number,
            "program": command[0],
            "arguments": list(command[1:]),
            "environment": dict(environment),
            "roots": [str(root) for root in roots],
            "output": str(output),
            "points": str(points),
            "settings": dict(settings or {}),
            "mutants": list(mutants),
            "umask": umask,
            "user": user,
            "commands": commands,
            "kill": [[kill.point.name, kill.point.occurrence, kill.point.can_tear], kill.moment]
            if kill
            else None,
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        assert select.select([self._process.stdout], [], [], _LIMIT_SECONDS)[0], (
            f"{command} does not end: {output.read_text()}"
        )
        answer = json.loads(self._process.stdout.readline())
        while answer["number"] != self._number:  # of a run that a test did not wait for
            answer = json.loads(self._process.stdout.readline())
        found = [
            Point(*json.loads(line)) for line in points.read_text(encoding="utf-8").splitlines()
        ]
        return Ran(
            answer["status"], output.read_text(encoding="utf-8", errors="replace"), tuple(found)
        )

    def end(self) -> None:
        """Ends the process and forgets what it wrote."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        shutil.rmtree(self._folder)


@dataclass
class World:
    """A folder with a NAS, an archive directory on another file system, and one host.

    `remember` and `recall` it as often as you like.
    """

    folder: Path
    elsewhere: Path
    programs: Programs
    backup: dict[str, Any] = field(default_factory=dict)
    archive: str = "archive"
    shared_group: bool | None = None
    umask: int = 0o022
    environment: dict[str, str] = field(default_factory=dict)
    #: The URL of a target that is told; empty: there is none.
    target: str = ""
    #: Whether what is written into the host's own notes is a crash point as well.
    notes_count: bool = False
    #: Whether what is written beside the disks of the host's VMs is one.
    disks_count: bool = False
    #: Whether what VirtualBox is told is one.
    commands_count: bool = False
    page: str = ""

    def __post_init__(self) -> None:
        self._place = self.folder / "world"
        for old in (self._place, self.elsewhere):
            shutil.rmtree(old, ignore_errors=True)
        self.elsewhere.mkdir()
        self.nas.mkdir(parents=True)
        self.host = SimulatedHost(self._place / "hosts", "alpha")
        self.configure()

    @property
    def nas(self) -> Path:
        return self._place / "nas"

    @property
    def state(self) -> Path:
        return self.nas / "vmstate"

    @property
    def archived(self) -> Path:
        return self.nas / self.archive

    @property
    def roots(self) -> list[Path]:
        """Where every write is a crash point."""
        notes = [self.notes] if self.notes_count else []
        disks = [self.host.vms] if self.disks_count else []
        return [self.nas, self.elsewhere, *notes, *disks]

    @property
    def notes(self) -> Path:
        """The state directory of the host."""
        return self._place / "state"

    @property
    def configuration(self) -> Path:
        return self._place / "config.toml"

    def configure(self, **backup: Any) -> None:
        """Writes the configuration; keyword arguments are settings of `[backup]`."""
        self.backup.update(backup)
        nas = {
            "mountpoint": str(self.nas),
            "archive_directory": self.archive,
            "require_mount": False,
            "reserve": 0,
        }
        if self.shared_group is not None:
            nas["shared_group"] = self.shared_group
        tables = {
            "nas": nas,
            "host": {"node": "alpha", "state_directory": str(self.notes)},
            "backup": {
                "retry_seconds": 20,
                "retry_interval_seconds": 0.1,
                "engine": "vboxmanage",
                **self.backup,
            },
            "page": {"file": self.page},
        }
        if self.target:
            tables["notify.target"] = {"url": self.target}
        text = "\n".join(
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in tables.items()
        )
        self.configuration.write_text(text, encoding="utf-8")

    def run(self, *command: str, kill: Kill | None = None, **more: Any) -> Ran:
        """Runs a program of this host to its end."""
        environment = {
            **os.environ,
            **self.host.environment,
            "VMBACKUP_CONFIG": str(self.configuration),
            **self.environment,
        }
        more = {"kill": kill, "umask": self.umask, "commands": self.commands_count, **more}
        return self.programs.run(command, environment, self.roots, **more)

    def must(self, *command: str, statuses: Sequence[int] = (0,), **more: Any) -> Ran:
        """Like `run`; AssertionError with the output for any other status."""
        ran = self.run(*command, **more)
        assert ran.status in statuses, f"{' '.join(command)}: status {ran.status}\n{ran.output}"
        return ran

    def initialise(self) -> None:
        """Makes the state database."""
        self.must("vmbackup-admin", "init", "--lease-seconds", str(LEASE_SECONDS))

    def tick(self, **more: Any) -> None:
        """What cron does, one worker after the other."""
        for worker in ("database", "vmfind", "notifier", "backup", "database"):
            self.must("vmbackup-worker", "-v", worker, statuses=(0, 4), **more)

    def remember(self, name: str) -> None:
        """Notes under a name how everything is now.

        A later world in the same folder can recall it, too.
        """
        assert self.host.exports() == []
        for source, kept in self._pairs(name):
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--sparse=always", source, kept], check=True)

    def recall(self, name: str) -> bool:
        """Puts everything but the configuration as it was.

        False if nothing was noted under that name.
        """
        if not all(kept.exists() for _, kept in self._pairs(name)):
            return False
        for source, kept in self._pairs(name):
            shutil.rmtree(source)
            subprocess.run(["cp", "-a", "--sparse=always", kept, source], check=True)
        self.configure()
        return True

    def _pairs(self, name: str) -> list[tuple[Path, Path]]:
        kept = self.folder / "kept" / name
        return [(self._place, kept / "world"), (self.elsewhere, kept / "elsewhere")]

    def head(self) -> Snapshot:
        """The newest generation, read without any code that could repair something."""
        newest = max((self.state / "gen").iterdir())
        return decode(newest.read_bytes(), int(newest.name))

    def exports(self) -> Sequence[Any]:
        """The exports that run now."""
        return self.host.exports()

    def record(self, key: str) -> VmRecord:
        """What the database says of a VM."""
        return self.head().contents.vms[key]

    def age_temporary_files(self) -> None:
        """Makes what lies in `tmp/` and `node/`, and what filelock and `doctor` leave, two days
        old: now it may be swept.
        """
        for path in (
            *(self.state / "tmp").iterdir(),
            *(self.state / "node").iterdir(),
            *self.state.glob("vmtool-dblock.*"),
            *self.nas.glob(".vmbackup-doctor.*"),
            *self.notes.glob("restore-*"),
        ):
            old = path.lstat().st_mtime - 2 * 86400
            os.utime(path, (old, old), follow_symlinks=False)
