"""Rot in a copy from which others took blocks over: they are suspect until they are read in full.

A file system that shares blocks stores such a block once, so its rot is in all of them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.copies import catalogue, sidecar_files
from shared.copies import sidecar as sidecars
from shared.copies.sidecar import Sidecar
from shared.state.states import State
from shared.tasks import verification
from tests.simulated.conftest import Rig
from tests.simulated.test_engine_choice import copied  # noqa: F401 - a fixture
from worker import verify


@pytest.fixture
def chain(rig: Rig, copied: Callable[..., Sidecar]) -> list[str]:  # noqa: F811 - the fixture
    """Three copies; the second took blocks over from the first, the third from the second."""
    made = [copied(keep_last=5) for _ in range(3)]
    assert [len(one.taken_from) for one in made] == [0, 1, 2]
    assert made[2].taken_from == (made[1].stamp, made[0].stamp)
    return [one.stamp for one in made]


def path(rig: Rig, stamp: str) -> Path:
    return rig.nas / "web01" / f"{stamp}.ova"


def rot(rig: Rig, place: float, *stamps: str) -> None:
    """Turns a bit at the same place of some copies, as if they shared the block."""
    for stamp in stamps:
        data = bytearray(path(rig, stamp).read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        path(rig, stamp).write_bytes(data)


def read(rig: Rig, stamp: str) -> str:
    """Verifies one copy; what is wrong with it."""
    site = rig.site()
    with site.database.session("verify") as session:
        examined = verification.verify_copy(site, session, "web01", stamp)
    assert examined is not None
    return examined.problem


def suspects(rig: Rig) -> list[str]:
    return [copy.stamp for copy in catalogue.read(rig.nas / "web01", None).copies if copy.suspect]


def test_what_took_over_from_a_damaged_copy_is_read_before_all_others(
    rig: Rig, chain: list[str]
) -> None:
    first, second, third = chain
    rot(rig, 0.5, first)
    assert read(rig, first) != ""
    assert suspects(rig) == [second, third]
    assert rig.record("web01").verified == ""
    assert verify.plan(rig.site()) == [f"web01 {second}", f"web01 {third}"]
    assert verify.run(rig.site()).done == ["web01", "web01"]
    assert suspects(rig) == []
    assert verify.plan(rig.site()) == []


def test_what_was_made_before_is_not_suspect(rig: Rig, chain: list[str]) -> None:
    rot(rig, 0.5, chain[1])
    assert read(rig, chain[1]) != ""
    assert suspects(rig) == [chain[2]]


def test_without_a_schedule_nothing_is_read_by_itself_and_no_tick_works_for_nothing(
    rig: Rig, chain: list[str]
) -> None:
    rot(rig, 0.5, chain[0])
    read(rig, chain[0])
    before = rig.site().database.head().generation
    assert verify.run(rig.site(verify_days=0)) == verify.Report()
    assert rig.site().database.head().generation == before


def test_the_next_copy_is_sent_whole_and_older_ones_go_only_for_one_that_was_read(
    rig: Rig,
    chain: list[str],
    copied: Callable[..., Sidecar],  # noqa: F811 - the fixture
) -> None:
    rot(rig, 0.5, chain[1])
    read(rig, chain[1])
    made = copied(keep_last=1)
    assert made.wire is not None
    assert (made.wire.copied, made.taken_from) == (0, ())
    assert "damaged" in made.wire.reason
    left = [copy.stamp for copy in catalogue.read(rig.nas / "web01", None).copies]
    assert left == [chain[1], made.stamp], "it was read in full, and is newer"
    again = copied(keep_last=1)
    assert again.taken_from == (made.stamp,)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
def test_rot_in_a_shared_block_never_ends_with_no_good_copy(
    rig: Rig,
    chain: list[str],
    copied: Callable[..., Sidecar],  # noqa: F811 - the fixture
    place: float,
) -> None:
    rot(rig, place, *chain)
    assert read(rig, chain[2]) != ""
    assert rig.record("web01").status is State.BACKUP_NECESSARY
    made = copied(keep_last=1)
    verify.run(rig.site())
    assert read(rig, made.stamp) == ""
    newest = catalogue.read(rig.nas / "web01", None).latest_good
    assert newest is not None
    assert newest.stamp == made.stamp


def test_a_crash_between_the_marks_is_made_good_by_the_next_reading(
    rig: Rig, chain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rot(rig, 0.5, chain[0])
    replacing = sidecar_files.replace

    def die(files: object, directory: Path, sidecar: Sidecar, claim: int) -> None:
        if sidecar.stamp == chain[2]:
            raise KeyboardInterrupt
        replacing(files, directory, sidecar, claim)  # type: ignore[arg-type]

    monkeypatch.setattr(sidecar_files, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        read(rig, chain[0])
    assert suspects(rig) == [chain[1]]
    assert sidecar_files.read(rig.nas / "web01", chain[0]).verified is None
    monkeypatch.undo()
    assert read(rig, chain[0]) != ""
    assert suspects(rig) == chain[1:]


def test_a_program_that_does_not_know_these_marks_keeps_them(rig: Rig, chain: list[str]) -> None:
    """As an older one does on another host: what it does not know it writes again."""
    side = replace(sidecar_files.read(rig.nas / "web01", chain[2]), suspect=chain[0])
    assert sidecars.parse(side.render()) == side
    old = sidecars.parse(replace(side, taken_from=(), suspect="").render())
    assert b"suspect" not in old.render()
