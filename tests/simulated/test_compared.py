"""Backups of a VM whose disks lie where nothing can be cloned: what changed is sent, and no more.

The oracle of each copy is the disk as qemu-img reads it (`Backups.run`).
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.copies.names import final_name
from shared.export import raw_digests
from shared.export.raw_digests import RawDigests
from shared.frozen.digest_files import DigestFile, digest_files
from shared.host.errors import NasError
from shared.tasks import verification
from tests.simulated.test_engine_choice import failing
from tests.simulated.test_frozen import used
from tests.simulated.test_kept_clones import Backups, archived, deleted, forgotten
from tests.support.file_systems import mounted
from tests.support.packages import require
from worker import clone_sweep
from worker.backup import export

pytestmark = pytest.mark.slow


@pytest.fixture
def backups(tmp_path: Path, probe_in_this_process: None) -> Iterator[Backups]:
    """On ext4, with a NAS that copies by itself."""
    require("qemu-img", "qemu-utils")
    with mounted("ext4", tmp_path) as place:
        yield Backups(tmp_path, place)


def kept(backups: Backups) -> list[DigestFile]:
    """The files of digests, of this host."""
    site = backups.rig.site()
    state_directory = site.configuration.host.state_directory
    return list(digest_files(state_directory, site.database.version.repository))


def read(backups: Backups, stamp: str) -> str:
    """Reads a copy in full by the verify worker's hand; what is wrong with it."""
    site = backups.rig.site()
    with site.database.session("verify") as session:
        examined = verification.verify_copy(site, session, "web01", stamp)
    assert examined is not None
    return examined.problem


def test_a_second_copy_sends_what_changed_and_is_read_in_full_later(backups: Backups) -> None:
    first = backups.run()
    assert first.read_in_full
    assert first.index is not None
    assert not first.frozen
    used(backups.vm)
    second = backups.run()
    assert (second.frozen, second.unread, second.read_in_full) == (False, 0, False)
    assert second.taken_from == (first.stamp,)
    assert second.wire is not None
    assert second.wire.copied > 3 << 20
    assert second.wire.sent < 1 << 20
    assert [file.claim for file in kept(backups)] == [0]
    good = [copy.stamp for copy in catalogue.read(backups.rig.nas / "web01", None).good]
    assert good == [first.stamp, second.stamp], "the one that was read in full stays until then"
    assert read(backups, second.stamp) == ""
    (side,) = (
        copy.sidecar
        for copy in catalogue.read(backups.rig.nas / "web01", None).good
        if copy.stamp == second.stamp
    )
    assert side is not None
    ova = (backups.rig.nas / "web01" / final_name(second.stamp, "ova")).read_bytes()
    assert side.sha256 == hashlib.sha256(ova).hexdigest()


@pytest.mark.parametrize("settings", [{"changed": "off"}, {"verify_days": 0}], ids=str)
def test_nothing_is_noted_of_a_vm_whose_copies_are_whole(
    backups: Backups, settings: dict[str, object]
) -> None:
    for _ in range(2):
        assert backups.run(**settings).read_in_full
        used(backups.vm)
    assert kept(backups) == []


def test_where_the_host_is_short_of_room_copies_are_whole(backups: Backups) -> None:
    backups.run()
    used(backups.vm)
    assert backups.run(clone_free=99).read_in_full
    clone_sweep.sweep(backups.rig.site(changed="auto"))
    assert kept(backups) == [], "those that there were are not of the newest copy"


def test_a_backup_that_fails_leaves_the_digests_of_the_last_good_copy(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.run()
    (file,) = kept(backups)
    before = file.path.read_bytes()
    with monkeypatch.context() as patched:
        failing(patched, export, "check", NasError("a fault"))
        used(backups.vm)
        with pytest.raises(AssertionError):  # the newest copy is not that of the disk
            backups.run()
    assert kept(backups) == [file]
    assert file.path.read_bytes() == before
    assert not backups.run().read_in_full


def test_digests_of_a_worker_that_died_go_with_the_next_tick(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backups.run()
    with monkeypatch.context() as patched:
        patched.setattr(RawDigests, "keep", lambda *_: None)
        used(backups.vm)
        backups.run()
    (file,) = kept(backups)
    shutil.copyfile(file.path, f"{file.path}.1")
    assert len(kept(backups)) == 2
    clone_sweep.sweep(backups.rig.site(changed="auto"))
    assert kept(backups) == [], "those that were kept are not of the newest copy"
    used(backups.vm)
    third = backups.run()
    assert third.read_in_full
    assert third.stamp > first.stamp


@pytest.mark.parametrize("writes", [0, 2], ids=["nothing", "a part"])
def test_a_copy_whose_digests_cannot_be_noted_is_not_one_that_was_read_in_full(
    backups: Backups, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """It takes over what the copy before has, by the digests of that, which can be read."""
    first = backups.run()
    written = []

    def full(*_: object) -> bytes:
        written.append(1)
        if len(written) > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return bytes(20)

    used(backups.vm)
    with monkeypatch.context() as patched:
        patched.setattr(raw_digests, "record", full)
        second = backups.run()
    assert second.wire is not None
    assert second.wire.copied > 3 << 20
    assert (second.read_in_full, second.taken_from) == (False, (first.stamp,))
    assert second.index is not None
    good = [copy.stamp for copy in catalogue.read(backups.rig.nas / "web01", None).good]
    assert good == [first.stamp, second.stamp], "the last one that was read in full stays"
    used(backups.vm)
    assert backups.run().read_in_full, "nothing is known by digests"


def test_digests_that_cannot_be_read_are_done_without(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.run()
    used(backups.vm)
    pread = os.pread

    def failing_pread(descriptor: int, count: int, position: int) -> bytes:
        if "/digests/" in os.readlink(f"/proc/self/fd/{descriptor}") and position:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, count, position)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", failing_pread)
        second = backups.run()
    assert second.wire is not None
    assert second.wire.copied > 3 << 20, "the NAS copies what is compressed to the same bytes"
    assert second.read_in_full


def test_a_host_that_comes_back_with_an_older_state_sends_everything(backups: Backups) -> None:
    backups.run()
    state_directory = backups.rig.site().configuration.host.state_directory
    older = backups.folder / "older"
    shutil.copytree(state_directory / "digests", older)
    used(backups.vm)
    backups.run()
    shutil.rmtree(state_directory / "digests")
    shutil.copytree(older, state_directory / "digests")
    used(backups.vm)
    assert backups.run().read_in_full


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        (archived, {}),
        (forgotten, {}),
        (deleted, {}),
        (lambda _: None, {"changed": "off"}),
    ],
    ids=["archived", "forgotten", "deleted", "off"],
)
def test_digests_that_serve_nobody_any_more_go_with_the_next_tick(
    backups: Backups, what: Callable[[Backups], None], settings: dict[str, object]
) -> None:
    backups.run()
    clone_sweep.sweep(backups.rig.site(changed="auto"))
    assert len(kept(backups)) == 1, "they stay until then"
    what(backups)
    clone_sweep.sweep(backups.rig.site(**{"changed": "auto", **settings}))
    assert kept(backups) == []
