"""One night with real VirtualBox.

A damaged generation, a crash in the middle of an export, a NAS without its database, a lost host.

What the manual says is done after each, and in the end the newest copy comes back, with what the
guest had counted to.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ordinary import page
from tests.ordinary.looking import Copy, good_copy
from tests.support.fleet import Fleet, Member, Ran
from tests.support.virtualbox import RealHost, RealVm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox


def do(member: Member, title: str, line: str, *more: str, **names: str) -> Ran:
    """A command that the manual has for the situation."""
    assert line in page.situations()[title]
    program, *words = [names.get(word, word) for word in line.split()]
    return member.run(program, *words, *more)


def count_on(vm: RealVm) -> int:
    """The guest runs and counts; what it has counted to when it is stopped."""
    vm.start()
    wait_for(lambda: vm.beats() >= 2, "the guest to count")
    vm.stop()
    return vm.counter()


def copies(fleet: Fleet) -> set[Copy]:
    return {
        copy
        for path in fleet.nas.rglob("*.ova")
        if not path.name.startswith(".") and (copy := good_copy(path))
    }


def accept(member: Member, title: str) -> None:
    """As the message says."""
    assert "`vmbackup-admin statedb accept`" in member.worker("vmfind", expect=None).stderr
    ran = do(member, title, "vmbackup-admin statedb accept", "--yes")
    assert ran.status == 0, ran


def test_one_night(make_virtualbox_host: Callable[[], RealHost], tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    first, second = (fleet.add(make_virtualbox_host()) for _ in range(2))
    vm = first.host.make_vm("web01", random_mib=1)
    first.worker("run")
    second.worker("run")
    (oldest,) = copies(fleet)

    damaged = max((fleet.nas / "vmstate" / "gen").iterdir())
    damaged.chmod(0o640)
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert "damaged" in first.worker("notifier", expect=1).stderr
    title = '"generation N of the state database is damaged"'
    assert "WRONG" in do(first, title, "vmbackup-admin statedb check").stdout
    do(first, title, "vmbackup-admin statedb check --set-aside N", N=str(int(damaged.name)))
    for member in (first, second):
        if member.worker("vmfind", expect=None).status:
            accept(member, title)
    assert copies(fleet) == {oldest}

    count_on(vm)
    first.worker("notifier")
    export = first.start("vmbackup-worker", "backup")
    wait_for(lambda: any(fleet.nas.rglob("*.partial.ova")), "the export to begin")
    export.kill()
    export.communicate()
    first.host.lose_power()
    ran = do(second, "A host has crashed", "vmbackup-lock recover HOST", HOST=first.name)
    assert ran.status == 0, ran
    assert copies(fleet) == {oldest}
    assert fleet.litter() == []

    shutil.rmtree(fleet.nas / "vmstate")
    title = next(
        title for title in page.situations() if title.startswith('"holds no state database')
    )
    for member in (first, second):
        accept(member, title)
    (fleet.nas / "archive" / ".vmbackup-archive").unlink()  # as it says
    assert do(first, title, "vmbackup-admin init", "--lease-seconds", "10").status == 0
    counted = count_on(vm)
    first.worker("run")
    last = fleet.record("web01").last_copy
    assert fleet.states() == {"web01": "CLEAN"}
    assert last
    assert last.stamp in {copy.stamp for copy in copies(fleet) - {oldest}}, (
        "CLEAN, and its copy is there"
    )

    first.host.lose_power()
    shutil.rmtree(first.host.folder)
    ran = do(
        second,
        "A VM is lost",
        "vmbackup-admin restore VM",
        "--to",
        str(second.host.vms / "back"),
        "--json",
        VM="web01",
    )
    assert ran.status == 0, ran
    assert RealVm(second.host, ran.json["uuid"], "web01").counter() == counted
