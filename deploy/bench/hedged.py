"""Backups of a small real VM, by turns with and without a second start of questions that are late.

VBoxManage now and then sleeps for ten seconds in its own shutdown (docs/virtualbox.md): what is
measured is how many backups wait for that.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deploy.bench.exports import configure
from deploy.bench.report import Report
from shared.host.clock import SystemClock
from shared.host.configuration import load
from shared.host.hedging import HedgingRunner
from shared.host.host_identity import HostIdentity
from shared.host.processes import Completed, Runner, SubprocessRunner
from shared.site import Site, open_site
from shared.state.store.create import create
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.virtualbox import RealHost, RealVm, Testbed, Unavailable
from worker import notifier, vmfind
from worker.backup import worker as backup

#: A question that took so long has waited for VBoxManage's shutdown, which sleeps for ten seconds.
_WAITED_SECONDS: Final = 8.0
#: Of so many backups at most one in a hundred may wait.
_AIM: Final = 1.0
_MIB: Final = 4


def measure(report: Report, *, rounds: int) -> None:
    """Prints how long they took; says so where there is no real VirtualBox."""
    report.heading(
        "Hedged reads",
        f"{rounds} backups of a VM of {_MIB} MiB with hedging, and {rounds} without, by turns",
    )
    try:
        testbed = Testbed.set_up()
    except (Unavailable, subprocess.CalledProcessError) as reason:
        report.figure("left out", str(reason))
        return
    host = testbed.host()
    try:
        _take_turns(report, host, host.make_vm("bench", mib=_MIB, random_mib=1), rounds)
    finally:
        host.remove()


class _Timed:
    """A runner that notes how long each command took. See `Runner`."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.seconds = [0.0]

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """See `Runner.run`."""
        began = time.monotonic()
        try:
            return self._runner.run(
                arguments, timeout_seconds=timeout_seconds, environment=environment
            )
        finally:
            self.seconds.append(time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Backup:
    """How long one took, in seconds, and the longest of its questions."""

    seconds: float
    question: float


def _take_turns(report: Report, host: RealHost, vm: RealVm, rounds: int) -> None:
    os.environ.update(host.environment)
    (host.folder / "nas").mkdir()
    configure(host, "vboxmanage")
    create(host.folder / "nas" / "vmstate", HostIdentity.of_this_machine("bench"), SystemClock())
    made: dict[bool, list[Backup]] = {True: [], False: []}
    for turn in range(rounds):
        for hedging in (True, False) if turn % 2 else (False, True):
            made[hedging].append(back_up(host, vm, hedging=hedging))
    for hedging, backups in made.items():
        name = "with" if hedging else "without"
        report.figure(f"{name} a second start: backups", _said([each.seconds for each in backups]))
        longest = [each.question for each in backups]
        report.figure(f"{name}: longest question of each", _said(longest))
        waited = 100 * sum(each >= _WAITED_SECONDS for each in longest) / len(longest)
        if hedging:
            report.judged(f"{name}: backups that waited", waited, "%", _AIM)
        else:
            report.figure(f"{name}: backups that waited", f"{waited:.1f} %")


def back_up(host: RealHost, vm: RealVm, *, hedging: bool) -> Backup:
    """Has the backup worker back it up."""
    host.run("modifyvm", vm.uuid, "--description", str(time.time()))
    vmfind.run(_site(host, HedgingRunner()))
    notifier.run(_site(host, HedgingRunner()))
    asking = _Timed(HedgingRunner() if hedging else SubprocessRunner())
    site = _site(host, asking)
    began = time.monotonic()
    done = backup.run(site).done
    seconds = time.monotonic() - began
    if not done:
        raise RuntimeError("there was no backup to measure")
    return Backup(seconds, max(asking.seconds))


def _site(host: RealHost, asking: Runner) -> Site:
    """A host that asks VirtualBox by `asking`."""
    site = open_site(load(str(host.folder / "config.toml")), SystemClock())
    configured = site.configuration.virtualbox
    site.vboxmanage = VBoxManage(
        configured.vboxmanage,
        SubprocessRunner(),
        configured.timeout_seconds,
        {},
        site.clock,
        asking=asking,
    )
    return site


def _said(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    most = ordered[len(ordered) * 99 // 100]
    median = statistics.median(ordered)
    return f"median {median:.2f} s, p99 {most:.2f} s, longest {ordered[-1]:.2f} s"
