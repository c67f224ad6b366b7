"""At three in the morning: hosts, locks and VMs.

Each test runs the commands of the manual and ends with the right copy's restore.
"""

import os
import signal
import time

import pytest

from shared.host.clock import SystemClock
from shared.host.configuration.loading import load
from shared.site import open_site
from shared.tasks import copy_hold
from tests.ordinary.names import DB, WEB
from tests.ordinary.night import Night, situation
from tests.ordinary.oracle import Step
from tests.ordinary.world import ADMIN, WORKER


@situation("A host has crashed")
def test_a_host_has_crashed_and_its_vm_is_backed_up_again(night: Night) -> None:
    night.lose_power(night.export_under_way())
    ran = night.do("vmbackup-lock recover HOST", HOST="alpha", host="beta")
    night.says(ran, WEB)
    assert night.world.look().records[WEB]["status"] == "BACKUP_NECESSARY"
    night.comes_back(WEB)
    night.goes_on(WEB)


@situation("A host has crashed")
def test_a_host_has_crashed_and_nobody_does_anything(night: Night) -> None:
    night.lose_power(night.export_under_way())
    night.world.tick("beta")
    assert night.world.look().records[WEB]["status"] == "BACKUP_NECESSARY"
    night.goes_on(WEB)


@situation("A lock is stuck")
def test_a_lock_is_stuck(night: Night) -> None:
    worker = night.export_under_way()
    os.kill(worker.pid, signal.SIGSTOP)  # alive and silent
    night.says(night.do("vmbackup-lock list", host="beta"), WEB)
    night.says(night.do("vmbackup-lock show NAME", NAME=WEB, host="beta"), "alpha")
    night.lose_power(worker)
    night.says(night.do("vmbackup-lock break NAME", NAME=WEB, host="beta"), WEB)
    night.comes_back(WEB)
    night.goes_on(WEB)


@situation("A lock is stuck")
def test_a_lock_whose_holder_lives_is_not_broken(night: Night) -> None:
    worker = night.export_under_way(export_seconds=6)
    ran = night.do("vmbackup-lock break NAME", NAME=WEB, host="beta", judged=False)
    night.says(ran, "alpha", status=11)
    worker.communicate(timeout=60)
    assert night.world.look().records[WEB]["status"] == "CLEAN"
    night.world.diary.note(night.world.look())
    night.comes_back(WEB)


@situation("A copy is held")
def test_a_copy_is_held_until_its_hold_is_broken(night: Night) -> None:
    """A VM of beta runs from the older copy, as `boot` has it."""
    world = night.world
    old, _new = world.diary.order(world.vm(WEB).uuid, world.look().copies)
    environment = {**os.environ, "VMBACKUP_NODE": "beta"}
    site = open_site(load(str(world.configuration("beta")), environment), SystemClock())
    record = site.database.head().contents.vms[WEB]
    night.befall(
        "boot", lambda: copy_hold.place(site, record, old.stamp, name="web-now", index="5" * 64)
    )
    night.says(night.do("vmbackup-lock list"), "beta:web-now", old.stamp)
    refused = world.step(ADMIN, "remove", WEB, old.stamp, "--yes")
    night.says(refused, "beta:web-now", status=11)
    night.goes_on(WEB)
    night.says(night.do("vmbackup-lock break HOST:NAME --force", **{"HOST:NAME": "beta:web-now"}))
    night.says(world.step(ADMIN, "remove", WEB, old.stamp, "--yes", asked=frozenset({old.stamp})))
    night.comes_back(WEB)


@situation("An export hangs")
def test_an_export_that_hangs_is_ended_by_hand(night: Night) -> None:
    worker = night.export_under_way(export_hangs_at=30)
    listed = night.do("vmbackup-lock list", host="beta", judged=False)
    night.says(listed, WEB, str(worker.pid))
    os.kill(worker.pid, signal.SIGTERM)
    said = worker.communicate(timeout=60)[0]
    assert worker.returncode == 143, said
    night.world.hosts["alpha"].mend()
    assert night.world.hosts["alpha"].exports() == []
    assert not night.world.look().partial
    night.comes_back(WEB)
    night.goes_on(WEB)


@situation('"no heartbeat: the NAS has not answered for …"')
def test_a_worker_hangs_while_others_can_use_the_nas(night: Night) -> None:
    worker = night.export_under_way()
    os.kill(worker.pid, signal.SIGSTOP)
    night.says(night.do("vmbackup-lock list", judged=False), str(worker.pid))
    night.lose_power(worker)
    night.goes_on(WEB)


@situation('"order of copies unknown"')
def test_copies_came_from_another_nas_without_their_times(night: Night) -> None:
    """Nothing is removed until somebody says which are the old ones.

    The new copy is the newest from the first moment on.
    """
    world = night.world
    old, new = world.diary.order(world.vm(WEB).uuid, world.look().copies)
    for number, copy in enumerate((new, old)):
        (path,) = world.nas.rglob(f"{copy.stamp}.ova")
        os.utime(path, (1_700_000_000 + number,) * 2)
    night.says(night.do("vmbackup-admin copies VM", VM=WEB), old.stamp, new.stamp, "order unknown")
    night.goes_on(WEB)
    assert {old, new} <= set(world.look().copies)
    night.says(
        night.do(
            "vmbackup-admin remove VM STAMP",
            "--yes",
            VM=WEB,
            STAMP=old.stamp,
            may_asked=frozenset({old.stamp}),
        )
    )
    night.goes_on(WEB)


@situation("A host was renamed")
def test_a_host_was_renamed(night: Night) -> None:
    night.world.nodes["alpha"] = "gamma"
    night.world.run(WORKER, "vmfind")
    night.says(night.world.run(ADMIN, "status"), "gamma")
    night.do("vmbackup-lock recover OLDNAME", OLDNAME="alpha", may_forgets=True)
    night.says(night.do("vmbackup-worker vmfind"))
    records = night.world.look().records
    assert {records[key]["node"] for key in (WEB, DB)} == {"gamma"}, night.world.story(f"{records}")
    night.world.use(night.world.vm(WEB))
    night.world.tick()
    assert night.world.look().records[WEB]["status"] == "CLEAN"
    night.comes_back(WEB)
    night.world.nodes.clear()


@situation("Two machines have one name")
def test_two_machines_have_one_name(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    world = night.world
    world.make("other", "beta")
    world.machine_ids["beta"] = "f" * 32
    world.nodes["beta"] = "alpha"
    before = world.look().records
    ran = world.step(WORKER, "vmfind", host="beta")
    night.says(ran, "alpha", status=1)
    assert world.look().records == before, "the second machine changed nothing"
    ran = night.do(
        "vmbackup-lock recover NAME --replaced", NAME="alpha", host="beta", may_forgets=True
    )
    night.says(ran)
    world.tick("beta", makes=frozenset())
    night.comes_back(WEB)
    assert "other" in world.look().records
    world.nodes.clear()
    world.machine_ids.clear()


@situation("A VM was moved to another host")
def test_a_vm_was_moved_and_its_old_host_lives(night: Night) -> None:
    _move(night)
    night.world.run(WORKER, "vmfind")
    _goes_on_at_its_new_host(night)


@situation("A VM was moved to another host")
def test_a_vm_was_moved_and_its_old_host_is_gone(night: Night) -> None:
    _move(night)
    night.do("vmbackup-lock recover OLDHOST", OLDHOST="alpha", host="beta", may_forgets=True)
    _goes_on_at_its_new_host(night)


def _move(night: Night) -> None:
    world, vm = night.world, night.world.vm(WEB)
    settings = vm.settings
    world.hosts["alpha"].run("unregistervm", vm.uuid)
    world.hosts["beta"].run("registervm", settings)


def _goes_on_at_its_new_host(night: Night) -> None:
    world = night.world
    world.run(WORKER, "vmfind", host="beta")
    record = world.look().records[WEB]
    assert (record["node"], record["uuid"]) == ("beta", world.vm(WEB, "beta").uuid), world.story(
        f"{record}"
    )
    world.use(world.vm(WEB, "beta"))
    world.tick("beta")
    assert world.look().records[WEB]["status"] == "CLEAN"
    night.comes_back(WEB, "alpha")


@situation("A VM was deleted")
def test_a_vm_was_deleted_and_its_copies_stay(night: Night) -> None:
    world, vm = night.world, night.world.vm(DB)
    world.hosts["alpha"].run("unregistervm", vm.uuid, "--delete")
    world.tick()
    night.says(world.run(ADMIN, "status"), "missing")
    night.comes_back(DB)
    copies = world.look().copies
    night.says(night.do("vmbackup-admin forget VM", VM=DB), "copies")
    assert world.look().copies == copies
    assert DB not in world.look().records
    night.goes_on(WEB)


@situation("A backup fails again and again")
def test_a_backup_fails_again_and_again(night: Night) -> None:
    world, vm = night.world, night.world.vm(WEB)
    world.use(vm)
    world.hosts["alpha"].fault(vm, export_fails_at=50)
    for _ in range(2):
        world.tick()
    error = world.look().records[WEB]["last_error"]
    night.says(night.do("vmbackup-admin show VM", VM=WEB), error.splitlines()[0][:40])
    night.says(night.do("vmbackup-admin log --vm VM", VM=WEB), WEB)
    night.says(
        night.do("vmbackup-worker -v -v backup --vm VM", VM=WEB), "export", "damaged", status=3
    )
    night.comes_back(WEB)
    world.hosts["alpha"].mend()
    night.says(
        night.do(
            "vmbackup-worker -v -v backup --vm VM",
            VM=WEB,
            may_retains=True,
            may_settles=frozenset({"alpha"}),
        )
    )
    night.comes_back(WEB)


@situation('"not back in its state yet"')
def test_somebody_uses_the_clone_of_a_live_backup_that_died(night: Night) -> None:
    world, host, vm = night.world, night.world.hosts["alpha"], night.world.vm(WEB)
    before = world.look()
    world.backup.update(live_when_stopped=True, running="live")
    world.configure()
    host.fault(export_seconds=60)
    night.lose_power(night.export_under_way())
    (clone,) = (
        found for found in world.look().vms["alpha"].values() if found.name.startswith("vmbackup-")
    )
    host.run("startvm", clone.uuid, "--type=headless")
    night.says(
        world.run(WORKER, "-v", "database"),
        "not back in its state yet",
        "somebody has started the clone",
        status=None,
    )
    host.run("controlvm", clone.uuid, "poweroff")
    night.says(world.run(WORKER, "-v", "database"))
    world.backup.clear()
    world.configure()
    world.judge(before, Step("a live backup that died", touches=frozenset({vm.uuid}), forgets=True))
    night.goes_on(WEB)


@situation("A VM is lost")
def test_a_vm_is_lost_with_its_host(night: Night) -> None:
    world = night.world
    newest = world.diary.newest(world.vm(WEB).uuid, world.look())
    assert newest
    ran = night.do("vmbackup-admin restore VM", VM=WEB, host="beta", may_makes=frozenset({WEB}))
    night.says(ran, newest.stamp)
    assert world.look().vms["beta"][world.vm(WEB, "beta").uuid].content == world.diary.content(
        newest
    )


@situation('"times in the future"')
def test_the_clock_was_in_the_future_once(night: Night) -> None:
    """A copy says that it was made in twelve years.

    Backups go on, somebody is told, and the newest is what comes back.
    """
    world = night.world
    newest = world.diary.newest(world.vm(WEB).uuid, world.look())
    assert newest
    (path,) = world.nas.rglob(f"{newest.stamp}.json")
    text = path.read_text(encoding="utf-8")
    year = time.strftime("%Y", time.gmtime())
    path.chmod(0o640)
    path.write_text(
        text.replace(f'"finished": "{year}', '"finished": "2038').replace(
            f'"started": "{year}', '"started": "2038'
        )
    )
    night.goes_on(WEB)
