"""Two hosts go on with a database that was made of their copies.

Namesakes, an archived VM, a pinned copy; backups, retention and restores as before.
"""

import shutil
from dataclasses import replace

from shared.copies import catalogue, sidecar_files
from shared.host.clock import SystemClock, timestamp
from shared.host.host_identity import HostIdentity
from shared.state.states import State
from shared.state.store import protocol
from shared.tasks import archiving, rebuilding
from tests.simulated.conftest import Rig
from tests.support.simulated.host import SimulatedVm
from worker import notifier, vmfind
from worker.backup import worker as backup


def use(rig: Rig, vm: SimulatedVm, host: str) -> None:
    """The VM is used, and backed up."""
    vm.start()
    vm.stop()
    rig.look(host)
    assert backup.run(rig.site(host)).failed == []


def rebuild(rig: Rig) -> None:
    configuration, clock = rig.site().configuration, SystemClock()
    shutil.rmtree(rig.nas / "vmstate")
    identity = HostIdentity.of_this_machine("alpha", configuration.host.state_directory)
    planned = rebuilding.plan(configuration, clock, 2.0)
    rebuilding.carry_out(configuration, clock, planned, identity)


def stamps(rig: Rig, key: str) -> list[str]:
    record = rig.record(key)
    return [copy.stamp for copy in catalogue.read(rig.nas / record.directory, record.uuid).good]


def test_names_directories_pins_and_archive_are_as_before_and_work_goes_on(rig: Rig) -> None:
    rig.policies["*"] = {"keep_last": 2}
    vms = {host: rig.host(host).make_vm("web01") for host in ("alpha", "beta")}
    old = rig.host().make_vm("old01")
    for host, vm in vms.items():
        use(rig, vm, host)
    use(rig, old, "alpha")
    archived = stamps(rig, "old01")
    archiving.archive(rig.site(), "old01")
    (pinned,) = stamps(rig, "web01")
    directory = rig.nas / rig.record("web01").directory
    sidecar = sidecar_files.read(directory, pinned)
    assert (sidecar.key, sidecar.repository) == ("web01", rig.site().database.version.repository)
    sidecar_files.replace(
        rig.site().files, directory, replace(sidecar, pinned=timestamp(SystemClock().now())), 99
    )
    before = rig.site().database.head().contents.vms
    rebuild(rig)
    after = rig.site().database.head().contents.vms
    assert {key: (vm.uuid, vm.node, vm.directory) for key, vm in after.items()} == {
        key: (vm.uuid, vm.node, vm.directory) for key, vm in before.items()
    }
    assert set(after) == {"web01", "web01@beta", "old01"}
    assert {key: vm.status for key, vm in after.items()} == {
        "web01": State.BACKUP_NECESSARY,
        "web01@beta": State.BACKUP_NECESSARY,
        "old01": State.ARCHIVED,
    }
    beta = rig.site("beta").database
    beta.seen.accept(beta.files.run(protocol.read_head()))
    for _ in range(3):
        for host, vm in vms.items():
            use(rig, vm, host)
    for host in vms:
        notifier.run(rig.site(host))
    assert len(stamps(rig, "web01@beta")) == 2
    assert stamps(rig, "web01")[0] == pinned
    assert len(stamps(rig, "web01")) == 3
    assert {key: vm.status for key, vm in rig.site().database.head().contents.vms.items()} == {
        "web01": State.CLEAN,
        "web01@beta": State.CLEAN,
        "old01": State.ARCHIVED,
    }
    archiving.activate(rig.site(), "old01")
    assert rig.record("old01").status == State.CLEAN, "its copy is that of the VM as it is"
    assert stamps(rig, "old01") == archived != []


def test_a_host_owns_its_name_again_although_all_its_vms_are_known(rig: Rig) -> None:
    use(rig, rig.host().make_vm("web01"), "alpha")
    before = rig.site().database.head().contents.nodes
    assert before["alpha"].machine
    rebuild(rig)
    assert vmfind.run(rig.site()).done
    after = rig.site().database.head().contents.nodes
    assert after == before, "another machine or user of that name is refused"
    assert not vmfind.run(rig.site()).done


def test_copies_that_somebody_copied_are_never_removed_and_archive_no_vm(rig: Rig) -> None:
    """One directory beside itself, and one in the archive, as people save them."""
    rig.policies["*"] = {"keep_last": 1}
    vms = [rig.host().make_vm(name) for name in ("web01", "db01")]
    for vm in vms:
        use(rig, vm, "alpha")
    saved = {"web01": rig.nas / "old-web01", "db01": rig.nas / "archive" / "db01"}
    for name, place in saved.items():
        shutil.copytree(rig.nas / name, place)
    before = {place: catalogue.read(place, None).good for place in saved.values()}
    rebuild(rig)
    for _ in range(2):
        for vm in vms:
            use(rig, vm, "alpha")
    for name, place in saved.items():
        assert rig.record(name).status == State.CLEAN
        assert rig.record(name).directory == name
        assert len(stamps(rig, name)) == 1
        assert catalogue.read(place, None).good == before[place] != ()
