"""An operator at three in the morning, who does what the manual says.

Its very commands, under the eyes of the oracle.
"""

import ast
import inspect
import os
import subprocess
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, TypeVar

from tests.crash.world import Ran
from tests.ordinary import commands, names, page
from tests.ordinary.histories import follow, make_anew
from tests.ordinary.oracle import Step
from tests.ordinary.world import ADMIN, WORKER, World
from tests.support.fleet import BIN

Test = TypeVar("Test", bound=Callable[..., Any])
_SITUATION: Final = "situation"


def situation(title: str) -> Callable[[Test], Test]:
    """Says which situation of the manual a test shows."""

    def mark(test: Test) -> Test:
        setattr(test, _SITUATION, title)
        return test

    return mark


def shown(*modules: ModuleType) -> dict[str, set[str]]:
    """What the tests of these modules run: the texts in each that may be commands, by situation."""
    found: dict[str, set[str]] = {}
    for module in modules:
        for test in vars(module).values():
            title = getattr(test, _SITUATION, None)
            if isinstance(title, str):
                tree = ast.parse(textwrap.dedent(inspect.getsource(test)))
                texts = {
                    node.value
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Constant) and isinstance(node.value, str)
                }
                found.setdefault(title, set()).update(texts)
    return found


@dataclass
class Night:
    """The world, and the situation that a test is in."""

    world: World
    title: str

    def do(
        self, line: str, *more: str, host: str = "alpha", judged: bool = True, **names: Any
    ) -> Ran:
        """Runs a command of the manual's section.

        `NAME="web01"` puts a word in the place of one in capitals, `may_…` is for the oracle.
        """
        assert line in page.situations()[self.title], (
            f"the manual does not say {line!r} under {self.title!r}"
        )
        may = {
            name.removeprefix("may_"): names.pop(name)
            for name in tuple(names)
            if name.startswith("may_")
        }
        words = [names.get(word, word) for word in line.split()] + list(more)
        return (
            self.world.step(*words, host=host, **may)
            if judged
            else self.world.run(*words, host=host)
        )

    def says(self, ran: Ran, *parts: str, status: int | None = 0) -> None:
        """AssertionError unless the program ended so and said all that."""
        assert status is None or ran.status == status, self.world.story(
            f"exit code {ran.status} instead of {status}"
        )
        missing = [part for part in parts if part not in ran.output]
        assert not missing, self.world.story(f"it does not say {missing}")

    def follow_the_message(self, line: str) -> None:
        """Accepts the database on each host whose message says so; AssertionError if none does."""
        assert line in page.situations()[self.title]
        assert follow(self.world), self.world.story("no message says that it can be accepted")

    def make_anew(self, line: str) -> None:
        """A new database, as the manual says: no copy is touched by that."""
        assert line in page.situations()[self.title]
        self.befall(line, lambda: make_anew(self.world))

    def goes_on(self, *keys: str, host: str = "alpha") -> None:
        """VMs that are used are backed up by themselves and CLEAN, and a restore on another host
        has what is on their disks.
        """
        for key in keys:
            self.world.use(self.world.vm(key, host))
        self.world.tick(host)
        for key in keys:
            record = self.world.look().records[key]
            assert (record["status"], record["node"]) == ("CLEAN", host), self.world.story(
                f"{record}"
            )
            self.comes_back(key)

    def comes_back(self, key: str, host: str = "beta") -> None:
        """The newest copy of the VM becomes a VM of a host, with the disks of when it was made."""
        newest, name = commands.newest_of(self.world, key), f"{key}-back"
        assert newest, self.world.story(f"{key} has no good copy")
        self.world.step(
            ADMIN, "restore", key, "--as", name, host=host, allowed=(0,), makes=frozenset({name})
        )
        vm = self.world.vm(name, host)
        assert self.world.look().vms[host][vm.uuid].content == self.world.diary.content(newest), (
            "restored was another copy than the newest"
        )
        self.world.hosts[host].run("unregistervm", vm.uuid, "--delete")

    def start(self, *command: str, host: str = "alpha") -> "subprocess.Popen[str]":
        """Starts an installed program, which goes on by itself."""
        world = self.world
        environment = {
            **os.environ,
            **world.hosts[host].environment,
            "VMBACKUP_CONFIG": str(world.configuration(host)),
        }
        return subprocess.Popen(
            [BIN / command[0], *command[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def export_under_way(self, key: str = names.WEB, **faults: Any) -> "subprocess.Popen[str]":
        """A worker of alpha that exports a VM, which takes long."""
        world, vm = self.world, self.world.vm(key)
        world.use(vm)
        world.run(WORKER, "notifier")
        world.hosts["alpha"].fault(vm, **(faults or {"export_seconds": 60}))
        worker = self.start(WORKER, "backup")
        end = time.monotonic() + 30
        while not world.hosts["alpha"].exports():
            assert time.monotonic() < end, "no export begins"
            assert worker.poll() is None, worker.communicate()[0]
            time.sleep(0.05)
        return worker

    def lose_power(self, worker: "subprocess.Popen[str]") -> None:
        """The worker's host is without power at once, and comes back."""
        worker.kill()
        worker.communicate()
        self.world.hosts["alpha"].lose_power()
        self.world.hosts["alpha"].mend()

    def befall(self, what: str, how: Callable[[], object]) -> None:
        """Something happens to the NAS that may change the database, but no copy and no VM."""
        before = self.world.look()
        how()
        self.world.judge(before, Step(what, forgets=True))
