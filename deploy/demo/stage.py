"""The stage of the demo: two hosts, real ones where they can be had, and a NAS directory.

The programs are those that are installed.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deploy.demo.narration import Narrator
from shared.host.errors import ExitCode
from tests.support.hosts import VirtualBoxHost
from tests.support.simulated import SimulatedHost
from tests.support.virtualbox import Testbed, Unavailable

PROGRAMS: Final = Path(sys.executable).parent
LIMIT_SECONDS: Final = 600


class DemoFailedError(Exception):
    """Something did not go as the demo says that it goes."""


@dataclass
class Actor:
    """A host of the demo and its prompt. `name` is what the database calls it."""

    name: str
    host: VirtualBoxHost
    folder: Path
    narrator: Narrator
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def configuration(self) -> Path:
        """Its configuration file."""
        return self.folder / f"{self.name}.toml"

    def run(
        self, *words: str, expect: Sequence[int] = (0,), newest: bool = False, only: str = ""
    ) -> None:
        """Types a command and shows what it prints, or only the lines that hold `only`.

        Raises `DemoFailedError` if it ends otherwise than expected.
        """
        self.narrator.command(self.name, shlex.join(words) + (f" | grep {only}" if only else ""))
        done = self._call(words)
        lines = (done.stdout + done.stderr).splitlines()
        self.narrator.output(
            "\n".join(line for line in lines if only in line or done.returncode), newest=newest
        )
        self._judge(words[0], done.returncode, expect)

    def ask(self, *words: str) -> Any:  # noqa: ANN401 - JSON
        """The JSON that a command prints, without showing it."""
        return json.loads(self._call([*words, "--json"]).stdout)

    def quietly(self, *words: str) -> None:
        """Types a command of which nothing is shown, however it ends."""
        self._call(words)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Types a command that goes on in the background."""
        self.narrator.command(self.name, f"{shlex.join(words)} &")
        process = subprocess.Popen(
            self._arguments(words),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: "subprocess.Popen[str]", expect: Sequence[int] = (0,)) -> None:
        """Waits for it and shows what it printed."""
        try:
            output = process.communicate(timeout=LIMIT_SECONDS)[0]
        except subprocess.TimeoutExpired:
            raise self._too_slow("vmbackup-worker") from None
        self.narrator.command(self.name, "wait")
        self.narrator.output(output, newest=True)
        self._judge("vmbackup-worker", process.returncode, expect)

    def remove(self) -> None:
        """Ends everything that was started on this host, and deletes its VMs."""
        for process in self.started:
            process.terminate()
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
        self.host.remove()

    def _call(self, words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                self._arguments(words),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                timeout=LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self._too_slow(words[0]) from None

    def _arguments(self, words: Sequence[str]) -> list[str]:
        program = str(self.host.vboxmanage) if words[0] == "VBoxManage" else words[0]
        return [program, *words[1:]]

    def _environment(self) -> Mapping[str, str]:
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        own = {
            "VMBACKUP_NODE": self.name,
            "VMBACKUP_CONFIG": str(self.configuration),
            "PATH": path,
            "LC_ALL": "C.UTF-8",
        }
        return {**os.environ, **self.host.environment, **own}

    def _too_slow(self, program: str) -> DemoFailedError:
        return DemoFailedError(
            f"{program} took more than {LIMIT_SECONDS} s on {self.name}: is this machine busy?"
        )

    def _judge(self, program: str, code: int, expect: Sequence[int]) -> None:
        if code and program.startswith("vmbackup") and code in set(ExitCode):
            self.narrator.status(code, ExitCode(code).meaning)
        if code not in expect:
            raise DemoFailedError(
                f"that ended with {code} on {self.name}, and should have ended with "
                f"{' or '.join(map(str, expect))}"
            )


@dataclass
class Stage:
    """Everything the demo made. `kind` says in words what the hosts are."""

    kind: str
    folder: Path
    nas: Path
    actors: tuple[Actor, Actor]

    @property
    def page(self) -> Path:
        """The page that stays: the demo ends with its address."""
        return Path(tempfile.gettempdir()) / f"vmbackup-demo-{os.getpid()}.html"

    def configure(self, actor: Actor, *, slow: bool) -> None:
        """Writes a host's configuration. `slow`: by the slower engine, so there is time to look."""
        settings: dict[str, dict[str, object]] = {
            "nas": {"mountpoint": str(self.nas), "require_mount": False, "reserve": "100 MiB"},
            "host": {
                "node": actor.name,
                "state_directory": str(self.folder / f"state-{actor.name}"),
            },
            "backup": {"retry_seconds": 2, "retry_interval_seconds": 1},
        }
        if slow:
            settings["backup"]["engine"] = "vboxmanage"
        tables = (
            f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
            for name, values in settings.items()
        )
        actor.configuration.write_text("\n".join(tables), encoding="utf-8")

    def shows_progress(self, vm: str) -> bool:
        """Whether the heartbeat of a worker says that it exports this VM now, and how far it is."""
        for path in (self.nas / "vmstate" / "node").glob("*"):
            with contextlib.suppress(OSError, ValueError):
                beat = json.loads(path.read_bytes())
                if beat.get("vm") == vm and beat.get("phase") == "export" and beat.get("percent"):
                    return True
        return False


@contextlib.contextmanager
def stage(narrator: Narrator, *, simulate: bool) -> Iterator[Stage]:
    """Two hosts, alpha and beta. Whatever happens, nothing is left of them at the end."""
    kind, folder, make_host = _simulated("as you asked for") if simulate else _real()
    with contextlib.ExitStack() as cleaning_up:
        cleaning_up.callback(shutil.rmtree, folder, ignore_errors=True)
        nas = folder / "nas"
        nas.mkdir(parents=True)
        actors = []
        for name in ("alpha", "beta"):
            actors.append(Actor(name, make_host(name), folder, narrator))
            cleaning_up.callback(actors[-1].remove)
        yield Stage(kind, folder, nas, (actors[0], actors[1]))


def _real() -> tuple[str, Path, Callable[[str], VirtualBoxHost]]:
    try:
        testbed = Testbed.set_up()
    except (Unavailable, subprocess.CalledProcessError) as reason:
        return _simulated(str(reason))
    folder = (
        testbed.folder / "hosts" / f"t{os.getpid()}-0"
    )  # under this name the test bed's own sweeper finds it
    kind = (
        f"the VirtualBox of this machine, {testbed.installed}"
        if testbed.installed
        else f"VirtualBox in {testbed.folder}/virtualbox"
    )
    return f"real ones ({kind})", folder, lambda _: testbed.host()


def _simulated(reason: str) -> tuple[str, Path, Callable[[str], VirtualBoxHost]]:
    folder = Path(tempfile.gettempdir()) / f"vmbackup-demo-{os.getpid()}"
    return (
        f"SIMULATED ({reason}): nothing here is done by a real VirtualBox",
        folder,
        lambda name: SimulatedHost(folder / "hosts", name),
    )


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Polls often, so that short moments are caught. Raises `DemoFailedError`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise DemoFailedError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)
