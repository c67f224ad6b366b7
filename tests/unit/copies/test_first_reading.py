"""Copies that nobody has read as a whole: sealed by their parts, until every byte was compared."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.copies import catalogue, first_reading, publishing
from shared.copies import sidecar as sidecars
from shared.copies.copy_files import NasFiles
from shared.copies.copying import Route
from shared.copies.moving import move_copies
from shared.copies.sidecar import Sidecar
from shared.host.errors import CopyError
from shared.host.rate_limit import Pace
from shared.ova.check import check_ova
from tests.support import copies as make
from tests.support.unread_copies import put_unread

STAMP = "20261122T203800Z-17"
PARTIAL = f".{STAMP}.17.partial"


@dataclass
class Intent:
    """To publish a copy."""

    stamp: str
    claim: int
    size: int
    sha256: str
    seal: str

    @classmethod
    def of(cls, side: Sidecar) -> "Intent":
        return cls(side.stamp, side.claim, side.size, side.sha256, side.seal)


def rot(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_every_byte_is_read_at_the_pace_of_the_host(tmp_path: Path) -> None:
    side, counts = put_unread(tmp_path, STAMP), []

    class Counted(Pace):
        def wait(self, count: int) -> None:
            counts.append(count)

    first_reading.check_first(tmp_path, side, pace=Counted())
    assert sum(counts) == side.size


@pytest.mark.broad
def test_every_byte_is_compared_and_then_the_digest_is_known(tmp_path: Path) -> None:
    side = put_unread(tmp_path, STAMP)
    found = first_reading.check_first(tmp_path, side)
    ova = tmp_path / f"{STAMP}.ova"
    assert found.sha256 == hashlib.sha256(ova.read_bytes()).hexdigest()
    assert check_ova(tmp_path, ova.name).sha256 == found.sha256, "also by itself, grain by grain"
    assert found.unlisted == ("d.vmdk",)
    for at in [0, *range(300, side.size, 4001), side.size - 1]:
        rot(ova, at)
        with pytest.raises(CopyError):
            first_reading.check_first(tmp_path, side)
        assert not first_reading.is_whole(tmp_path, ova.name, side)
        rot(ova, at)
    assert first_reading.is_whole(tmp_path, ova.name, side)


@pytest.mark.parametrize("length", [0, 511, 70_000, -1])
def test_one_that_was_cut_off_or_has_grown_is_found(tmp_path: Path, length: int) -> None:
    side = put_unread(tmp_path, STAMP)
    ova = tmp_path / f"{STAMP}.ova"
    data = ova.read_bytes()
    ova.write_bytes(data[:length] if length >= 0 else data + bytes(512))
    with pytest.raises(CopyError):
        first_reading.check_first(tmp_path, side)


def test_another_index_than_the_sealed_one_is_refused(tmp_path: Path) -> None:
    side = put_unread(tmp_path, STAMP)
    put_unread(tmp_path / "other", STAMP, seed=9)
    (tmp_path / "other" / f"{STAMP}.index").replace(tmp_path / f"{STAMP}.index")
    with pytest.raises(CopyError, match="its index is not the one"):
        first_reading.check_first(tmp_path, side)


@pytest.mark.broad
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_the_reading_is_noted_leaves_the_copy_as_before_or_read(
    tmp_path: Path, *, after: bool
) -> None:
    for number in range(100):
        place = tmp_path / str(number)
        side = put_unread(place, STAMP)
        found = first_reading.check_first(place, side)
        breaking = make.BreakingFiles(number, after=after)
        try:
            first_reading.note(breaking, place, side, found, 30)
        except make.PowerCutError:
            (copy,) = catalogue.read(place, None).good
            assert copy.sidecar is not None
            assert copy.sidecar.sha256 in ("", found.sha256)
            first_reading.note(NasFiles(), place, copy.sidecar, found, 31)
        (copy,) = catalogue.read(place, None).good
        assert copy.read_in_full
        assert f"{found.sha256}  {STAMP}.ova" in (place / f"{STAMP}.sha256").read_text()
        if len(breaking.done) <= number:
            return
    raise AssertionError("it never ended")


@pytest.mark.broad
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_operation_of_publishing_is_rolled_forward(
    tmp_path: Path, *, after: bool
) -> None:
    for number in range(100):
        place = tmp_path / str(number)
        side = put_unread(place, STAMP, prefix=PARTIAL)
        publishing.seal(NasFiles(), place, side)
        breaking = make.BreakingFiles(number, after=after)
        try:
            publishing.publish(breaking, place, Intent.of(side))
        except make.PowerCutError:
            publishing.publish(NasFiles(), place, Intent.of(side))
        assert len(catalogue.read(place, None).good) == 1
        assert first_reading.is_whole(place, f"{STAMP}.ova", side)
        if len(breaking.done) <= number:
            return
    raise AssertionError("it never ended")


def test_what_is_beside_an_intent_is_compared_by_its_parts(tmp_path: Path) -> None:
    """A server repeated the rename as a copy, or somebody planted another file of that size."""
    side = put_unread(tmp_path, STAMP, prefix=PARTIAL)
    publishing.seal(NasFiles(), tmp_path, side)
    data = (tmp_path / f"{PARTIAL}.ova").read_bytes()
    (tmp_path / f"{STAMP}.ova").write_bytes(data[:-1] + b"!")
    with pytest.raises(CopyError, match="exists already and is something else"):
        publishing.publish(NasFiles(), tmp_path, Intent.of(side))
    (tmp_path / f"{STAMP}.ova").write_bytes(data)
    publishing.publish(NasFiles(), tmp_path, Intent.of(side))
    assert catalogue.read(tmp_path, None).partials == ()


def test_an_intent_for_other_parts_is_not_fulfilled(tmp_path: Path) -> None:
    side = put_unread(tmp_path, STAMP, prefix=PARTIAL)
    publishing.seal(NasFiles(), tmp_path, side)
    wrong = Intent.of(side)
    wrong.seal = "0" * 64
    with pytest.raises(CopyError, match="not the sidecar that was to be published"):
        publishing.publish(NasFiles(), tmp_path, wrong)


@pytest.mark.broad
@pytest.mark.parametrize(
    "files",
    [make.BreakingFiles, make.BreakingLinklessFiles, make.BreakingTwoFileSystems],
    ids=["renamed", "linkless", "copied"],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_operation_of_a_move_loses_nothing(
    tmp_path: Path, files: type[make.BreakingFiles], *, after: bool
) -> None:
    """The index goes along; to another file system it goes only once it was read in full."""
    for number in range(200):
        source, target = tmp_path / str(number) / "web", tmp_path / str(number) / "there"
        side = put_unread(source, STAMP)
        route = Route(source, target, make.UUID, claim=30)
        breaking = files(number, after=after)
        try:
            move_copies(breaking, route)
        except make.PowerCutError:
            whole = [
                copy
                for place in (source, target)
                for copy in catalogue.read(place, None).good
                if first_reading.is_whole(place, f"{STAMP}.ova", side) or copy.read_in_full
            ]
            assert whole, breaking.done
            breaking = files(10**6)
            assert move_copies(breaking, route).problems == ()
            ended = False
        else:
            ended = True
        (copy,) = catalogue.read(target, None).good
        assert copy.read_in_full == (files is make.BreakingTwoFileSystems)
        assert copy.read_in_full or first_reading.is_whole(target, f"{STAMP}.ova", side)
        assert not source.exists()
        if ended:
            return
    raise AssertionError("it never ended")


def test_damage_is_found_before_such_a_copy_goes_to_another_file_system(tmp_path: Path) -> None:
    put_unread(tmp_path / "web", STAMP)
    rot(tmp_path / "web" / f"{STAMP}.ova", 70_000)
    route = Route(tmp_path / "web", tmp_path / "there", make.UUID, claim=30)
    (problem,) = move_copies(make.TwoFileSystems(), route).problems
    assert "other bytes than were written" in problem.reason
    assert (tmp_path / "web" / f"{STAMP}.ova").exists()


@pytest.mark.parametrize(
    "changes",
    [{"schema": 1}, {"parts": None}, {"index": None}, {"index": {"size": -1, "sha256": "0" * 64}}],
)
def test_a_sidecar_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    document = {**json.loads(put_unread(tmp_path, STAMP).render()), **changes}
    with pytest.raises(CopyError, match="the sidecar is wrong"):
        sidecars.parse(json.dumps(document).encode())
