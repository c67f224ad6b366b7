"""Several real VirtualBox hosts, one NAS of limited size, and what can be done to them in the
middle of a backup.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from shared.copies import catalogue
from shared.host.process_identity import ProcessIdentity, wait_until_gone
from tests.crash.promises import examine
from tests.support.fleet import Fleet, Member
from tests.support.virtualbox import RealHost, RealVm
from tests.support.waiting import wait_for

NAS_MIB: Final = 1024
DISK_MIB: Final = 96
#: `policy.keep_last`, of which nothing else is said.
KEPT: Final = 2
ENGINES: Final = ("vboxmanage", "parallel")
#: About how long an export takes: a blow falls within it.
EXPORT_SECONDS: Final = {"vboxmanage": 2.0, "parallel": 0.5}
_LIMIT_SECONDS: Final = 180


@dataclass
class Target:
    """A host with one VM whose export takes some seconds."""

    member: Member
    vm: RealVm
    description: int = 0

    @property
    def host(self) -> RealHost:
        host = self.member.host
        assert isinstance(host, RealHost)
        return host

    @property
    def key(self) -> str:
        """Its key now: it may have been renamed."""
        contents = self.member.fleet.head().contents
        return next(record.key for record in contents.vms.values() if record.uuid == self.vm.uuid)

    @property
    def directory(self) -> Path:
        return self.member.fleet.nas / self.member.fleet.record(self.key).directory

    def change(self) -> None:
        """Changes the settings, so that the VM needs a backup."""
        self.description += 1
        self.host.run("modifyvm", self.vm.uuid, f"--description=change {self.description}")

    def partial(self) -> bool:
        return any(self.directory.glob(".*.partial.ova")) if self.directory.exists() else False

    def is_free(self) -> bool:
        """Whether nobody reads or writes its disk, an export without a client included."""
        return (
            "State:          created"
            in self.host.run("showmediuminfo", "disk", self.vm.disk, check=False).stdout
        )


@dataclass
class Tally:
    """How often each thing was done, and what survived."""

    done: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, what: str, engine: str, status: int, *, survived: bool) -> None:
        """Counts one round."""
        self.done[what] += 1
        self.survived[what] += survived
        self.outcomes.setdefault(what, Counter())[f"{status} ({engine})"] += 1

    def lines(self) -> Iterator[str]:
        """The table."""
        yield (
            f"{'what was done during the export':<44}{'times':>6}{'survived':>10}   how the "
            f"worker ended"
        )
        for what, times in self.done.items():
            ended = ", ".join(
                f"{name} {count}" for name, count in self.outcomes[what].most_common()
            )
            yield f"{what:<44}{times:>6}{self.survived[what]:>10}   {ended}"


class Range:
    """Where it is done: the first target is hit, the others go on working meanwhile."""

    def __init__(self, fleet: Fleet, targets: list[Target], seed: int) -> None:
        self.fleet, self.targets = fleet, targets
        self.random = random.Random(seed)
        self.engine = ENGINES[0]
        self.worker: subprocess.Popen[str] | None = None

    def round(self, what: str, engine: str) -> list[str]:
        """Does one thing to a VM in the middle of its backup, lets the next ticks run, and answers
        what is wrong then.
        """
        target, others = self._choose()
        self.engine = engine
        before = {
            each.vm.uuid: {copy.stamp for copy in catalogue.read(each.directory, None).good}
            for each in self.targets
        }
        for each in self.targets:
            each.member.configure("backup", engine=engine, retry_seconds=60)
            each.change()
            each.member.worker("notifier")
        beside = [each.member.start("vmbackup-worker", "-v", "backup") for each in others]
        self.worker = target.member.start("vmbackup-worker", "-v", "backup")
        undo = BLOWS[what](self, target)
        output = self._end(self.worker)
        beside_output = [self._end(process) for process in beside]
        problems = [
            f"the other worker: {text}"
            for process, text in zip(beside, beside_output, strict=True)
            if process.returncode != 0
        ]
        if what == FULL:  # which concerns them all
            problems = []
        problems += self._at_once(before)
        try:
            undo()
            self._settle(target)
            problems += self._afterwards(before)
        except AssertionError as error:
            problems.append(str(error))
        if problems:
            problems.append(f"the worker (exit code {self.worker.returncode}) said:\n{output}")
        return problems

    def _choose(self) -> tuple[Target, list[Target]]:
        target = self.random.choice(self.targets)
        return target, [each for each in self.targets if each is not target]

    def somewhere(self, target: Target) -> None:
        """Waits until the export is under way, and then for a random part of it."""
        assert self.worker
        wait_for(
            lambda: (
                target.partial() or (self.worker is not None and self.worker.poll() is not None)
            ),
            "the export to begin",
            60,
        )
        time.sleep(self.random.uniform(0, EXPORT_SECONDS[self.engine]))

    def _end(self, process: "subprocess.Popen[str]") -> str:
        try:
            return process.communicate(timeout=_LIMIT_SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(
                f"a worker did not end within {_LIMIT_SECONDS} s:\n{process.communicate()[0]}"
            ) from None

    def _settle(self, target: Target) -> None:
        """What cron does next. Another host's workers recover what a host cannot that is gone."""
        for each in self.targets:
            each.member.worker("database", expect=None)
        for each in self.targets:
            for worker in ("vmfind", "notifier", "backup", "database"):
                each.member.worker(worker, expect=None)
        assert target.is_free(), f"{target.vm.name} is still locked"

    def _at_once(self, before: dict[str, set[str]]) -> Iterator[str]:
        for each in self.targets:
            there = {copy.stamp for copy in catalogue.read(each.directory, None).good}
            stamps = before[each.vm.uuid]
            # All older ones may be gone: a blow that comes late lets a backup end, and the next
            # tick makes another.
            kept = sorted(stamps | there, key=_number)[-KEPT:]
            if not there.issuperset(kept):
                yield f"{each.vm.name}: of {sorted(stamps)} only {sorted(there)} are left"

    def _afterwards(self, before: dict[str, set[str]]) -> Iterator[str]:
        yield from self._at_once(before)
        for each in self.targets:
            record = self.fleet.record(each.key)
            found = catalogue.read(each.directory, None)
            if record.status != "CLEAN":
                yield f"{record.key} is {record.status}: {record.last_error}"
            elif not record.last_copy or record.last_copy.stamp not in {
                copy.stamp for copy in found.good
            }:
                yield f"{record.key}: its last copy {record.last_copy} is not there"
            if (
                record.claim
                or record.publishing
                or record.power
                or record.leftovers
                or record.missing_since
            ):
                yield f"{record.key} is not at rest: {record}"
            yield from (problem for copy in found.good for problem in examine(copy))
            yield from (
                f"{copy.stamp} does not count: {copy.problem}"
                for copy in found.copies
                if not copy.good
            )
            if each.vm.info("VMState") not in ("poweroff", "aborted"):
                yield f"{each.vm.name} is {each.vm.info('VMState')}"
        swept = {
            path.name
            for folder in ("tmp", "node")
            for path in (self.fleet.nas / "vmstate" / folder).iterdir()
        }
        if litter := [
            name
            for name in self.fleet.litter()
            if name not in swept or not self._is_swept_later(name)
        ]:
            yield f"left over: {litter}"

    def _is_swept_later(self, name: str) -> bool:
        """Temporary files of dead processes are swept when they are a day old.

        Heartbeats of the dead are not left at all.
        """
        return (self.fleet.nas / "vmstate" / "tmp" / name).exists()


def _number(stamp: str) -> int:
    return int(stamp.rpartition("-")[2])


Undo = Callable[[], None]


def _nothing() -> None:
    """There is nothing to undo."""


def kill_worker(field: Range, target: Target) -> Undo:
    field.somewhere(target)
    assert field.worker
    os.kill(field.worker.pid, signal.SIGKILL)
    return _nothing


def kill_vboxmanage(field: Range, target: Target) -> Undo:
    field.somewhere(target)
    for process in target.host.processes("VBoxManage", "export"):
        with contextlib.suppress(psutil.Error):
            process.kill()
    return _nothing


def kill_both(field: Range, target: Target) -> Undo:
    kill_worker(field, target)
    return kill_vboxmanage(field, target)


def lose_power(field: Range, target: Target) -> Undo:
    """The host with everything on it: VBoxSVC, VMs, commands, workers."""
    field.somewhere(target)
    assert field.worker
    identity = ProcessIdentity.of(field.worker.pid)
    os.kill(field.worker.pid, signal.SIGKILL)
    field.worker.wait(10)
    assert identity is None or wait_until_gone(identity, timeout_seconds=10)
    target.host.lose_power()
    return _nothing


def start_vm(field: Range, target: Target) -> Undo:
    """Its user starts it: VirtualBox may refuse that while the disk is read."""
    field.somewhere(target)
    target.host.run("startvm", target.vm.uuid, "--type=headless", check=False)

    def undo() -> None:
        wait_for(
            target.is_free if target.vm.info("VMState") != "running" else lambda: True,
            "its export to end",
            60,
        )
        if target.vm.info("VMState") == "running":
            target.vm.stop()
        target.member.worker("notifier")

    return undo


def unregister(field: Range, target: Target) -> Undo:
    settings = target.vm.settings
    field.somewhere(target)
    target.host.run("unregistervm", target.vm.uuid)

    def undo() -> None:
        target.member.worker("vmfind", expect=None)
        assert field.fleet.record(target.key).missing_since, (
            "a VM that is not listed is shown as missing"
        )
        wait_for(lambda: not target.host.processes() or _idle(target.host), "its export to end", 60)
        target.host.run("registervm", settings)

    return undo


def _idle(host: RealHost) -> bool:
    """Whether no export goes on without a client: VBoxSVC ends five seconds after its last one."""
    return not host.processes("VBoxSVC")


def rename(field: Range, target: Target) -> Undo:
    field.somewhere(target)
    target.host.run(
        "modifyvm", target.vm.uuid, f"--name=renamed-{field.random.randrange(10**6)}", check=False
    )
    return _nothing


def detach(field: Range, target: Target) -> Undo:
    place = ("storageattach", target.vm.uuid, "--storagectl=SATA", "--port=0", "--device=0")
    field.somewhere(target)
    target.host.run(*place, "--medium=none")

    def undo() -> None:
        wait_for(target.is_free, "its export to end", 60)
        target.host.run(*place, "--type=hdd", f"--medium={target.vm.disk}")

    return undo


def fill(field: Range, target: Target) -> Undo:
    """Somebody else fills the NAS, down to what the exports that are under way cannot do with."""
    field.somewhere(target)
    ballast = field.fleet.nas / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        room = os.statvfs(field.fleet.nas)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
        while True:
            file.write(bytes(1 << 16))
    time.sleep(1)
    return ballast.unlink


FULL: Final = "NAS full"
BLOWS: Final[dict[str, Callable[[Range, Target], Undo]]] = {
    "worker killed": kill_worker,
    "VBoxManage killed": kill_vboxmanage,
    "worker and VBoxManage killed": kill_both,
    "whole host lost its power": lose_power,
    "VM started by its user": start_vm,
    "VM unregistered": unregister,
    "VM renamed": rename,
    "disk detached": detach,
    FULL: fill,
}
