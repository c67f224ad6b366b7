"""Copies of which only what was sent has been checked: what they are good for until they are read.

The oracle of each copy is the disk as qemu-img reads it (`Backups.run`), and `hashlib` over the
whole file.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.restore import choice, restoring
from coordinator.restore.one_disk import restore_disk
from shared.copies import catalogue
from shared.copies.names import final_name
from shared.copies.sidecar import Sidecar
from shared.host.errors import CopyError, NasError
from shared.ova.index import GrainIndex
from shared.ova.parts import segments
from shared.ova.vdi_writing import TargetError
from shared.state import formats
from shared.tasks import archiving, verification
from tests.simulated.test_frozen import raw, used
from tests.simulated.test_kept_clones import Backups, backups
from tests.simulated.test_policies import sidecar
from worker import verify

__all__ = ["backups"]

pytestmark = pytest.mark.slow


def two(backups: Backups, **settings: object) -> tuple[Sidecar, Sidecar]:
    """Two copies, of which the second took over what did not change."""
    first = backups.run(**settings)
    used(backups.vm)
    return first, backups.run(**settings)


def path(backups: Backups, side: Sidecar, suffix: str = "ova") -> Path:
    return backups.rig.nas / "web01" / f"{side.stamp}.{suffix}"


def read(backups: Backups, side: Sidecar) -> str:
    """Reads a copy in full by the verify worker's hand; what is wrong with it."""
    site = backups.rig.site()
    with site.database.session("verify") as session:
        examined = verification.verify_copy(site, session, "web01", side.stamp)
    assert examined is not None
    return examined.problem


def good(backups: Backups) -> list[str]:
    return [copy.stamp for copy in catalogue.read(backups.rig.nas / "web01", None).good]


def test_a_copy_that_was_checked_where_sent_gets_its_digest_when_it_is_read_in_full(
    backups: Backups,
) -> None:
    first, second = two(backups)
    assert first.read_in_full
    assert first.parts is None
    assert second.unread > 0
    assert not second.read_in_full
    document = json.loads(path(backups, second, "json").read_text())
    assert (document["schema"], document["sha256"]) == (2, "")
    assert second.oldest_read == first.finished
    assert ".ova" not in path(backups, second, "sha256").read_text()
    assert b"SIZE (" in path(backups, second).read_bytes()
    record = backups.rig.record("web01").last_copy
    assert record is not None
    assert (record.sha256, record.seal) == ("", second.seal)
    assert read(backups, second) == ""
    after = sidecar(backups.rig, "web01")
    assert after.sha256 == hashlib.sha256(path(backups, second).read_bytes()).hexdigest()
    assert f"{after.sha256}  {second.stamp}.ova" in path(backups, second, "sha256").read_text()
    assert json.loads(path(backups, second, "json").read_text())["schema"] == 2
    record = backups.rig.record("web01").last_copy
    assert record is not None
    assert (record.sha256, record.seal) == (after.sha256, "")
    path(backups, second, "index").unlink()
    assert read(backups, after) == "", "what was read once needs no index"


def test_the_newest_copy_that_was_read_in_full_stays_until_a_newer_one_was(
    backups: Backups,
) -> None:
    first, second = two(backups, keep_last=1)
    assert good(backups) == [first.stamp, second.stamp]
    third = backups.run(keep_last=1)
    assert not third.read_in_full
    assert good(backups) == [first.stamp, third.stamp], "of two that were not read the newer one"
    assert read(backups, third) == ""
    fourth = backups.run(keep_last=1)
    assert good(backups) == [third.stamp, fourth.stamp]


def test_a_copy_that_nobody_has_read_is_restored_if_every_digest_is_right(
    backups: Backups, tmp_path: Path
) -> None:
    _, second = two(backups)
    assert not second.read_in_full
    site = backups.rig.site()
    copy = choice.choose(site, backups.rig.record("web01"), "latest")
    want = raw(backups.vm.disk, backups.folder)
    restore_disk(copy, 1, tmp_path / "one.img", lambda *_: None)
    assert (tmp_path / "one.img").read_bytes() == want
    what = restoring.plan(site, copy, name="back", folder=tmp_path / "vms")
    done = restoring.bring_back(site, copy, what, lambda *_: None)
    assert done.imported_because == ""
    (image,) = (tmp_path / "vms" / "back").glob("*.vdi")
    assert raw(image, backups.folder) == want

    assert second.index is not None
    with closing(GrainIndex.open(path(backups, second, "index"))) as index:
        (section,) = index.header.sections
        places = [section.position + record.sector * 512 for record in index.records(section)]
    whole = path(backups, second).read_bytes()
    for place in (places[-1] + 100, whole.rindex(b"SHA256 (") + 9, section.position + 30):
        path(backups, second).write_bytes(whole[:place] + b"~" + whole[place + 1 :])
        with pytest.raises(CopyError, match="is damaged and was not restored"):
            restore_disk(copy, 1, tmp_path / "two.img", lambda *_: None)
        again = restoring.plan(site, copy, name="again", folder=tmp_path / "more")
        with pytest.raises(CopyError, match="is damaged and was not restored"):
            restoring.bring_back(site, copy, again, lambda *_: None)
    assert not list(tmp_path.glob("*two*"))
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("cause", ["the NAS is away", "the disk is full"])
def test_a_restore_that_is_cut_off_in_the_middle_leaves_nothing(
    backups: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """By the NAS, or by the disk that it writes to; given again, it does all of it."""
    backups.run()
    site, folder = backups.rig.site(), tmp_path / "vms"
    folder.mkdir()
    copy = choice.choose(site, backups.rig.record("web01"), "latest")
    real, left = {"readv": os.readv, "pwritev": os.pwritev}, [3]

    def fails(name: str, number: int) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(number, os.strerror(number))
            return int(real[name](*arguments))

        return call

    name, number = ("readv", errno.ESTALE) if "NAS" in cause else ("pwritev", errno.ENOSPC)
    what = restoring.plan(site, copy, name="back", folder=folder)
    with monkeypatch.context() as patched:
        patched.setattr(os, name, fails(name, number))
        with pytest.raises(NasError if "NAS" in cause else TargetError):
            restoring.bring_back(site, copy, what, lambda *_: None)
        assert left[0] < 0, "it was not met"
    assert list(folder.iterdir()) == []
    assert [machine.name for machine in site.inventory().values()] == ["web01"]
    done = restoring.bring_back(site, copy, what, lambda *_: None)
    assert (done.name, done.imported_because) == ("back", "")


@pytest.mark.parametrize("seed", range(3))
def test_rot_in_the_copy_before_never_ends_with_no_good_copy(backups: Backups, seed: int) -> None:
    """A bit of a grain of the first copy rots: the second has it, and is found out."""
    first = backups.run(keep_last=1)
    assert first.index is not None
    with closing(GrainIndex.open(path(backups, first, "index"))) as index:
        (section,) = index.header.sections
        records = list(index.records(section))
    record = records[(seed + 1) * (len(records) - 1) // 3]
    data = bytearray(path(backups, first).read_bytes())
    data[section.position + record.sector * 512 + 100] ^= 1
    path(backups, first).write_bytes(data)
    used(backups.vm)
    with contextlib.suppress(AssertionError, zlib.error, struct.error):
        backups.run(keep_last=1)  # the oracle sees what the worker does not look at
    second = sidecar(backups.rig, "web01")
    if second.read_in_full:  # the grain was one of the sample: it is whole, and the first may go
        assert second.wire is not None
        assert second.wire.copied == 0
        assert second.stamp in good(backups)
        return
    assert first.stamp in good(backups)
    assert "has other bytes than were written" in read(backups, second)
    found = catalogue.read(backups.rig.nas / "web01", None)
    assert [copy.stamp for copy in found.copies if copy.suspect] == [first.stamp]
    third = backups.run(keep_last=1)
    assert third.read_in_full
    assert third.wire is not None
    assert third.wire.copied == 0
    assert third.stamp in good(backups)
    assert verify.run(backups.rig.site(changed="auto")).failed == []
    assert read(backups, third) == ""


def test_nothing_is_left_unread_where_nobody_would_read_it_later(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    two(backups)
    assert backups.run(verify_days=0).read_in_full
    assert not backups.run().read_in_full
    with monkeypatch.context() as older:
        older.setattr(formats, "is_older", lambda _: True)
        assert backups.run().read_in_full
    for side in catalogue.read(backups.rig.nas / "web01", None).good:
        if side.read_in_full:
            side.directory.joinpath(f"{side.stamp}.ova").unlink()
    assert backups.run().read_in_full, "beside no copy that was"


def test_a_copy_without_its_index_does_not_count_until_it_was_read(backups: Backups) -> None:
    first, second = two(backups)
    index = path(backups, second, "index")
    index.rename(index.with_suffix(".away"))
    assert good(backups) == [first.stamp]
    index.with_suffix(".away").rename(index)
    assert good(backups) == [first.stamp, second.stamp]
    data = bytearray(index.read_bytes())
    data[-1] ^= 1
    index.write_bytes(data)
    assert "index" in read(backups, second)
    assert good(backups) == [first.stamp]


def test_an_index_other_than_the_sealed_one_is_not_taken_over_from(backups: Backups) -> None:
    first = backups.run()
    document = json.loads(path(backups, first, "json").read_text())
    document["index"]["sha256"] = "0" * 64
    path(backups, first, "json").write_text(json.dumps(document))
    used(backups.vm)
    second = backups.run()
    assert second.read_in_full
    assert second.unread == 0


def test_the_index_goes_with_the_copy_to_the_archive_and_back(backups: Backups) -> None:
    first, second = two(backups)
    archiving.archive(backups.rig.site(), "web01")
    place = backups.rig.site().archive_directory(backups.rig.record("web01"))
    names = {entry.name for entry in place.iterdir()}
    assert final_name(second.stamp, "index") in names
    assert final_name(first.stamp, "index") not in names, "one that was read does not need it"
    assert read(backups, second) == ""
    archiving.activate(backups.rig.site(), "web01")
    assert good(backups) == [first.stamp, second.stamp]


def test_the_parts_describe_every_byte(backups: Backups) -> None:
    _, second = two(backups)
    assert second.parts is not None
    with closing(GrainIndex.open(path(backups, second, "index"))) as index:
        found = list(segments(second.parts, index, second.size))
    assert found[0].start == 0
    assert found[-1].end == second.size
    assert all(one.end == other.start for one, other in itertools.pairwise(found))
