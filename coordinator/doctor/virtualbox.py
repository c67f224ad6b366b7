"""Does VirtualBox answer, and is this the user who owns the VMs?"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from coordinator.doctor import unfinished
from coordinator.doctor.patience import ANSWER_SECONDS
from coordinator.doctor.result import Check
from coordinator.users import name_of
from shared.host.clock import Clock
from shared.host.configuration import VirtualBox
from shared.host.processes import Runner
from shared.virtualbox import settings
from shared.virtualbox.inventory import take_inventory
from shared.virtualbox.vboxmanage import VBoxManage

#: The major version that the facts the program relies on were measured with.
_TRIED = 7


def examine(
    configured: VirtualBox,
    state_directory: Path,
    runner: Runner,
    clock: Clock,
    environment: Mapping[str, str],
) -> Iterator[Check]:
    """Everything about VirtualBox. Raises `VBoxManageError` when it does not answer."""
    vboxmanage = VBoxManage(
        configured.vboxmanage,
        runner,
        min(configured.timeout_seconds, ANSWER_SECONDS),
        clock=clock,
    )
    version = vboxmanage.version()
    yield _version(shutil.which(configured.vboxmanage) or configured.vboxmanage, version)
    for warning in vboxmanage.warnings():
        yield Check("VirtualBox", "warn", warning, "VMs may not start; see `VBoxManage --version`")
    home = settings.home(configured.home, environment)
    yield _user(home)
    machines = take_inventory(vboxmanage, home, clock.sleep)
    for machine in machines.values():
        if not machine.accessible:
            yield Check(
                "VirtualBox: VMs",
                "warn",
                f"{machine.name or machine.uuid}: {machine.reason}",
                "it is not backed up until that is mended",
            )
    yield from unfinished.examine_beside(state_directory, machines.values())
    if machines:
        running = sum(machine.running for machine in machines.values())
        yield Check("VirtualBox: VMs", "ok", f"{len(machines)} VMs, {running} of them running")
    else:
        hint = (
            "workers must run as the user who owns the VMs; VBOX_USER_HOME or "
            "virtualbox.home says where VirtualBox keeps its settings"
        )
        yield Check("VirtualBox: VMs", "warn", f"this user (uid {os.geteuid()}) has no VMs", hint)


def _version(program: str, version: str) -> Check:
    major = re.match(r"\d+", version)
    if major and int(major[0]) != _TRIED:
        return Check(
            "VirtualBox",
            "warn",
            f"{program}, version {version}",
            f"vmbackup was tried with VirtualBox {_TRIED}",
        )
    return Check("VirtualBox", "ok", f"{program}, version {version}")


def _user(home: "os.PathLike[str]") -> Check:
    try:
        owner = os.stat(home).st_uid
    except FileNotFoundError:
        return Check(
            "VirtualBox: user", "warn", f"{home} is not there", "is this the user who owns the VMs?"
        )
    if owner != os.geteuid():
        hint = (
            f"run everything as {name_of(owner)}: another user sees its running VMs as switched "
            f"off, and would export them while they run"
        )
        return Check(
            "VirtualBox: user",
            "fail",
            f"{home} belongs to {name_of(owner)}, and this is {name_of(os.geteuid())}",
            hint,
        )
    return Check("VirtualBox: user", "ok", f"{home} belongs to this user")
