"""The clones of the last good copy: what the next one need not read, and how they go."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.copies.sidecar import Sidecar
from shared.host.errors import NasError
from shared.state.rules import vm_records
from shared.state.states import State
from shared.tasks import archiving
from tests.simulated.conftest import Rig
from tests.simulated.test_engine_choice import NFS, failing
from tests.simulated.test_frozen import copied, kept_clones, litter, raw, used
from tests.simulated.test_policies import sidecar
from tests.support.file_systems import mounted
from tests.support.packages import require
from tests.support.server_copies import note_server_copy
from worker import clone_sweep, notifier, vmfind
from worker.backup import export
from worker.backup import worker as backup
from worker.backup.freeze_choice import Frozen

pytestmark = pytest.mark.slow


class Backups:
    """A host on XFS, and a NAS that copies by itself."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.rig = folder, Rig(place)
        self.vm = self.rig.host().make_vm("web01", mib=8, random_mib=4)

    def run(self, **settings: object) -> Sidecar:
        """A further copy, compared with the disk as qemu-img reads it."""
        site = self.rig.site(**{"engine": "parallel", "changed": "auto", **settings})
        site.nas = replace(site.nas, mount=NFS)
        note_server_copy(site.configuration.host.state_directory, NFS)
        self.rig.host().run("modifyvm", self.vm.uuid, "--description", os.urandom(8).hex())
        for worker in (vmfind, notifier, backup):
            clone_sweep.sweep(site)
            worker.run(site)  # type: ignore[attr-defined]
        assert copied(self.rig, "web01") == raw(self.vm.disk, self.folder)
        return sidecar(self.rig, "web01")


@pytest.fixture
def backups(tmp_path: Path, probe_in_this_process: None) -> Iterator[Backups]:
    """See `Backups`."""
    require("qemu-img", "qemu-utils")
    with mounted("xfs", tmp_path) as place:
        yield Backups(tmp_path, place)


def test_a_second_copy_reads_what_changed(backups: Backups) -> None:
    first = backups.run()
    used(backups.vm)
    second = backups.run()
    assert (first.frozen, first.unread) == (True, 0)
    assert second.frozen
    assert 3 << 20 < second.unread < 5 << 20
    kept = kept_clones(backups.rig)
    assert kept is not None
    assert (kept.stamp, litter(backups.rig)) == (second.stamp, [])
    assert {path.stat().st_mode & 0o777 for path in kept.paths} == {0o400}


def test_a_worker_that_dies_before_its_clones_are_noted_costs_a_whole_reading(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is there, and the clones that are noted are of the one before."""
    backups.run()
    with monkeypatch.context() as patched:
        patched.setattr(Frozen, "keep", lambda *_: None)
        patched.setattr(Frozen, "discard", lambda _: None)
        backups.run()
    used(backups.vm)
    assert backups.run().unread == 0
    used(backups.vm)
    assert backups.run().unread > 0
    assert litter(backups.rig) == []


def test_a_backup_that_fails_leaves_the_clones_of_the_last_good_copy(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backups.run()
    before = kept_clones(backups.rig)
    with monkeypatch.context() as patched:
        failing(patched, export, "check", NasError("a fault"))
        used(backups.vm)
        with pytest.raises(AssertionError):  # the newest copy is not that of the disk
            backups.run()
    assert backups.rig.record("web01").status == State.BACKUP_NECESSARY
    assert kept_clones(backups.rig) == before
    assert sidecar(backups.rig, "web01").stamp == first.stamp
    assert litter(backups.rig) == []
    assert backups.run().unread > 0


def archived(backups: Backups) -> None:
    """Its VM is put into the archive."""
    archiving.archive(backups.rig.site(), "web01")


def forgotten(backups: Backups) -> None:
    """Its VM is known no more."""
    backups.rig.site().database.commit_once(
        lambda contents: vm_records.forget(contents, "web01"), "forget", "admin"
    )


def deleted(backups: Backups) -> None:
    """Its VM is deleted in VirtualBox."""
    backups.rig.host().run("unregistervm", backups.vm.uuid, "--delete")
    vmfind.run(backups.rig.site())


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        (archived, {}),
        (forgotten, {}),
        (deleted, {}),
        (lambda _: None, {"changed": "off"}),
        (lambda _: None, {"clone_free": 99}),
    ],
    ids=["archived", "forgotten", "deleted", "off", "short of room"],
)
def test_clones_that_serve_nobody_any_more_go_with_the_next_tick(
    backups: Backups, what: Callable[[Backups], None], settings: dict[str, object]
) -> None:
    backups.run()
    site = backups.rig.site(**{"changed": "auto", **settings})
    if settings:
        clone_sweep.sweep(backups.rig.site(changed="auto"))
        assert kept_clones(backups.rig) is not None, "they stay until then"
    what(backups)
    clone_sweep.sweep(site)
    found = [*backups.rig.folder.rglob("*.frozen"), *backups.rig.folder.rglob(".vmbackup")]
    assert found + list(backups.rig.folder.glob("state-*/frozen/*")) == []
