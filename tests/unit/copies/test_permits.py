"""The one place that lets a file of a copy go: what it demands, and that nothing passes it by."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.copies import catalogue, chronology, permits, protection, retention
from shared.copies.catalogue import Copy
from shared.copies.copy_files import NasFiles, Permit
from shared.copies.copying import Route
from shared.copies.moving import move_copies
from shared.copies.names import make_stamp
from shared.copies.retention import Rules
from shared.copies.sidecar_fields import Verified
from shared.host.errors import CopyError, IllegalMoveError, NasError
from tests.support import copies as make
from tests.support.unread_copies import put_unread

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
OTHER = "00000000-0000-4000-8000-000000000001"
ROOT = Path(__file__).parents[3]


def put(
    directory: Path, claim: int, day: float, created: float | None = None, **changes: object
) -> str:
    """A copy with these three signs; answers its stamp."""
    stamp = make_stamp(BEGIN + timedelta(days=day), claim)
    make.put_copy(directory, stamp, f"copy {stamp}".encode(), **changes)
    if created is not None:
        os.utime(directory / f"{stamp}.ova", (1000 + created, 1000 + created))
    return stamp


def left(directory: Path) -> list[str]:
    return sorted(path.name.removesuffix(".ova") for path in directory.glob("*.ova"))


def retain(directory: Path, keep: int = 1, **options: object) -> list[str]:
    return retention.apply(NasFiles(), directory, make.UUID, Rules(keep_last=keep), **options)  # type: ignore[arg-type]


# Numbers that began again


def test_a_copy_with_a_lower_number_is_not_removed_when_it_is_published(tmp_path: Path) -> None:
    old = [put(tmp_path, claim, claim, claim) for claim in (16, 17)]
    new = put(tmp_path, 1, 20, 20)
    assert retain(tmp_path, 2, protect={new}) == []
    found = catalogue.read(tmp_path, make.UUID)
    assert (sorted(left(tmp_path)), found.latest_good) == (sorted([*old, new]), found.find(new))
    assert set(found.order_unknown) == {*old, new}


def test_what_was_just_published_stays_whatever_the_signs_say(tmp_path: Path) -> None:
    put(tmp_path, 17, 17, 17)
    new = put(tmp_path, 1, 1, 1)
    assert retain(tmp_path, protect={new}) == []


def test_disputed_copies_stay_and_the_undisputed_ones_go(tmp_path: Path) -> None:
    oldest = put(tmp_path, 1, 1, 1)
    pair = [put(tmp_path, 3, 2, 2), put(tmp_path, 2, 3, 3)]
    newest = put(tmp_path, 4, 4, 4)
    assert retain(tmp_path) == [oldest]
    assert left(tmp_path) == sorted([*pair, newest])


# Whose it is


def test_copies_of_another_vm_neither_count_nor_go(tmp_path: Path) -> None:
    theirs = [put(tmp_path, claim, claim, claim, uuid=OTHER) for claim in (1, 2, 3, 90)]
    mine = [put(tmp_path, claim, claim, claim) for claim in (4, 5)]
    assert retain(tmp_path, 1) == mine[:1]
    assert left(tmp_path) == sorted([*theirs, mine[1]])


def test_leftovers_go_only_if_their_sidecar_says_whose_they_are(tmp_path: Path) -> None:
    mine, theirs, nobodys = (
        put(tmp_path, 1, 1),
        put(tmp_path, 2, 2, uuid=OTHER),
        put(tmp_path, 3, 3),
    )
    for stamp in (mine, theirs, nobodys):
        (tmp_path / f"{stamp}.sha256").unlink()
        (tmp_path / f"{stamp}.ova").unlink()
    (tmp_path / f"{nobodys}.json").write_text("{")
    assert retention.remove_leftovers(NasFiles(), tmp_path, make.UUID) == [mine]
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {theirs, nobodys}


def test_what_belongs_to_an_ova_that_was_put_aside_for_a_while_waits_for_it(tmp_path: Path) -> None:
    older, newer = put(tmp_path, 1, 1), put(tmp_path, 2, 2)
    aside = tmp_path.parent / "aside.ova"
    (tmp_path / f"{older}.ova").rename(aside)
    assert retain(tmp_path, 1) == []
    aside.rename(tmp_path / f"{older}.ova")
    assert left(tmp_path) == [older, newer]


def test_the_newer_one_must_be_another_file(tmp_path: Path) -> None:
    old = put(tmp_path, 1, 1)
    new = make_stamp(BEGIN + timedelta(days=2), 2)
    os.link(tmp_path / f"{old}.ova", tmp_path / f"{new}.ova")
    (tmp_path / f"{new}.json").write_bytes(make.sidecar(f"copy {old}".encode(), new).render())
    assert retain(tmp_path) == []


# The gate


def test_published_files_cannot_be_removed_without_a_permit(tmp_path: Path) -> None:
    stamp = put(tmp_path, 1, 1, sides={"vbox": b"<VirtualBox/>"})
    for suffix in ("ova", "json", "sha256", "vbox"):
        with pytest.raises(ValueError, match="takes a permit"):
            NasFiles().remove(tmp_path, f"{stamp}.{suffix}")
    permit = Permit(tmp_path, stamp, frozenset({f"{stamp}.sha256"}), "for the test")
    with pytest.raises(ValueError, match="not for"):
        NasFiles().remove_published(permit, f"{stamp}.ova")
    assert (tmp_path / f"{stamp}.ova").exists()


@pytest.mark.broad
def test_only_keeping_gives_permits() -> None:
    makers = [
        path.relative_to(ROOT).as_posix()
        for room in ("shared", "worker", "coordinator")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"(?<!class )\bPermit\(", path.read_text(encoding="utf-8"))
    ]
    assert makers == ["shared/copies/permits.py"]


# Moves


def test_a_directory_is_not_moved_to_itself_whatever_it_is_called(tmp_path: Path) -> None:
    stamp = put(tmp_path / "web", 1, 1)
    (tmp_path / "link").symlink_to(tmp_path)
    for target in (tmp_path / "web", tmp_path / "web" / ".." / "web", tmp_path / "link" / "web"):
        with pytest.raises(NasError, match="the same directory"):
            move_copies(NasFiles(), Route(tmp_path / "web", target, make.UUID, 30))
    assert left(tmp_path / "web") == [stamp]


def test_what_arrived_is_read_before_the_source_goes(tmp_path: Path) -> None:
    stamp = put(tmp_path / "nas", 1, 1)
    put(tmp_path / "archive", 1, 1)
    digest = make.sidecar(f"copy {stamp}".encode(), stamp).sha256
    assert permits.arrived(
        tmp_path / "nas", tmp_path / "archive", stamp, [f"{stamp}.ova"], digest=digest
    )
    with pytest.raises(CopyError, match="damaged"):
        permits.arrived(
            tmp_path / "nas", tmp_path / "archive", stamp, [f"{stamp}.ova"], digest="0" * 64
        )
    (tmp_path / "archive" / f"{stamp}.ova").unlink()
    with pytest.raises(CopyError, match="is not at"):
        permits.arrived(tmp_path / "nas", tmp_path / "archive", stamp, [f"{stamp}.json"])


def test_copies_of_another_vm_are_not_moved(tmp_path: Path) -> None:
    theirs, mine = put(tmp_path / "nas", 1, 1, uuid=OTHER), put(tmp_path / "nas", 2, 2)
    moved = move_copies(NasFiles(), Route(tmp_path / "nas", tmp_path / "archive", make.UUID, 30))
    assert moved.stamps == (mine,)
    assert [(problem.stamp, "another VM" in problem.reason) for problem in moved.problems] == [
        (theirs, True)
    ]
    assert (left(tmp_path / "nas"), left(tmp_path / "archive")) == ([theirs], [mine])


def test_a_copy_that_is_moved_to_another_file_system_keeps_the_time_of_its_creation(
    tmp_path: Path,
) -> None:
    stamp = put(tmp_path / "nas", 1, 1, 77)
    move_copies(make.TwoFileSystems(), Route(tmp_path / "nas", tmp_path / "archive", make.UUID, 30))
    assert (tmp_path / "archive" / f"{stamp}.ova").stat().st_mtime == 1077


# An operator's word


def test_an_operator_may_let_go_of_what_is_disputed_but_not_of_the_last_one(tmp_path: Path) -> None:
    old, new = put(tmp_path, 17, 1, 1), put(tmp_path, 1, 2, 2)
    retention.remove_copy(
        NasFiles(), permits.chosen(tmp_path, make.UUID, old, vm="web", last=False)
    )
    assert left(tmp_path) == [new]
    with pytest.raises(IllegalMoveError, match="last good copy"):
        permits.chosen(tmp_path, make.UUID, new, vm="web", last=False)
    retention.remove_copy(NasFiles(), permits.chosen(tmp_path, make.UUID, new, vm="web", last=True))
    assert list(tmp_path.iterdir()) == []


def test_an_operator_cannot_let_go_of_a_pinned_copy_or_of_another_vms(tmp_path: Path) -> None:
    pinned, theirs = (
        put(tmp_path, 1, 1, pinned="2026-12-01T00:00:00Z"),
        put(tmp_path, 2, 2, uuid=OTHER),
    )
    for stamp in (pinned, theirs):
        with pytest.raises(IllegalMoveError):
            permits.chosen(tmp_path, make.UUID, stamp, vm="web", last=True)


# All of it


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9),
            st.integers(0, 9),
            st.integers(0, 9),
            st.sampled_from(["good"] * 6 + ["bad", "pinned"]),
        ),
        max_size=12,
    ),
    st.integers(1, 3),
)
def test_each_copy_that_goes_has_a_newer_one_by_every_sign(
    drawn: list[tuple[int, int, int, str]], keep: int
) -> None:
    copies = {}
    for number, (claim, day, created, kind) in enumerate(drawn):
        stamp = make_stamp(BEGIN + timedelta(days=day), claim)
        side = make.sidecar(b"", stamp, pinned="2026-12-01T00:00:00Z" if kind == "pinned" else "")
        copies[stamp] = Copy(
            Path(),
            stamp,
            side,
            0,
            "damaged" if kind == "bad" else "",
            created=created,
            file=(1, number + 1),
        )
    decisions = retention.select(copies.values(), Rules(keep_last=keep))
    stay = [decision.copy for decision in decisions if decision.keep]
    gone = [decision.copy for decision in decisions if not decision.keep]
    good = [copy for copy in stay if copy.good]
    for copy in gone:
        assert copy.good
        assert not copy.pinned
        assert any(chronology.supersedes(other, copy) for other in good)
        assert not any(chronology.disputed(other, copy) for other in copies.values() if other.good)
    if any(copy.good for copy in copies.values()):
        assert len(good) >= min(keep, sum(copy.good for copy in copies.values()))


def test_without_the_guard_the_copy_that_was_just_published_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: rules and numbers alone decide, as they once did."""
    for claim in (16, 17):
        put(tmp_path, claim, claim, claim)
    new = put(tmp_path, 1, 20, 20)
    monkeypatch.setattr(
        protection, "must_stay", lambda copies, **_: {copy.stamp: [] for copy in copies}
    )
    monkeypatch.setattr(
        chronology,
        "newest_first",
        lambda copies: sorted(copies, key=lambda copy: copy.claim, reverse=True),
    )
    assert retain(tmp_path, 2, protect={new}) == [new]


# What VirtualBox would not import


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        ("GR", "GR"),
        ("GRR", "GR"),
        ("RRR", "R"),
        ("RG", "G"),
        ("GRG", "G"),
        ("GGRR", "GR"),
    ],
)
def test_a_refused_copy_displaces_no_good_one_and_goes_for_whatever_is_newer(
    tmp_path: Path, kinds: str, kept: str
) -> None:
    """G: a good copy, R: one that VirtualBox would not import; oldest first."""
    for number, kind in enumerate(kinds, 1):
        put(tmp_path, number, number, number, refused="no sausage" if kind == "R" else "")
    before = catalogue.read(tmp_path, make.UUID).latest_good
    retain(tmp_path)
    found = catalogue.read(tmp_path, make.UUID)
    assert "".join("R" if copy.refused else "G" for copy in found.copies) == kept
    assert (before is None) == (found.latest_good is None)
    assert before is None or found.find(before.stamp) is not None


def test_a_refused_copy_stays_pinned_disputed_or_damaged(tmp_path: Path) -> None:
    stays = [
        put(tmp_path, 1, 1, 1, refused="no", pinned="2026-01-02T00:00:00Z"),
        put(tmp_path, 9, 2, 2, refused="no"),
        put(tmp_path, 2, 3, 3, refused="no", verified=Verified("2026-01-05T00:00:00Z", "rotten")),
        put(tmp_path, 3, 4, 4),
    ]
    assert retain(tmp_path) == []
    assert left(tmp_path) == sorted(stays)


# Suspect copies: they took blocks over from one that was found damaged


def test_no_copy_goes_for_the_sake_of_one_that_is_suspect(tmp_path: Path) -> None:
    old = put(tmp_path, 1, 1, 1)
    damaged = put(tmp_path, 2, 2, 2, verified=Verified("2026-12-01T00:00:00Z", "rotten"))
    suspect = put(tmp_path, 3, 3, 3, taken_from=(damaged,), suspect=damaged)
    assert retain(tmp_path) == []
    with pytest.raises(IllegalMoveError, match="last good copy that is not suspect") as caught:
        permits.chosen(tmp_path, make.UUID, old, vm="web01", last=False)
    assert "verify web01" in (caught.value.hint or "")
    assert permits.chosen(tmp_path, make.UUID, old, vm="web01", last=True).stamp == old
    assert permits.chosen(tmp_path, make.UUID, suspect, vm="web01", last=False).stamp == suspect
    sound = put(tmp_path, 4, 4, 4)
    assert retain(tmp_path) == [old, suspect]
    assert left(tmp_path) == [damaged, sound], "what is damaged stays for people to look at"


def test_a_copy_that_virtualbox_refused_does_not_go_for_a_suspect_one(tmp_path: Path) -> None:
    refused = put(tmp_path, 1, 1, 1, refused="E_FAIL")
    put(tmp_path, 2, 2, 2, suspect=refused)
    assert retain(tmp_path) == []
    put(tmp_path, 3, 3, 3)
    assert refused in retain(tmp_path)


# Copies that were not read in full


def unread_copy(directory: Path, day: int) -> str:
    """One of that day and claim; answers its stamp."""
    stamp = put_unread(directory, make_stamp(BEGIN + timedelta(days=day), day)).stamp
    os.utime(directory / f"{stamp}.ova", (1000 + day, 1000 + day))
    return stamp


def test_the_newest_copy_that_was_read_in_full_goes_only_for_one_that_was(tmp_path: Path) -> None:
    read = put(tmp_path, 1, 1, 1)
    unread = [unread_copy(tmp_path, day) for day in (2, 3)]
    assert retain(tmp_path) == [unread[0]], "of two that were not read the older one"
    with pytest.raises(IllegalMoveError, match="last good copy that was read in full") as caught:
        permits.chosen(tmp_path, make.UUID, read, vm="web01", last=False)
    assert "verify web01" in (caught.value.hint or "")
    chosen = permits.chosen(tmp_path, make.UUID, unread[1], vm="web01", last=False)
    assert chosen.stamp == unread[1]
    newer = put(tmp_path, 4, 4, 4)
    assert retain(tmp_path) == [read, unread[1]]
    assert left(tmp_path) == [newer]


def test_nothing_goes_while_no_copy_was_read_in_full(tmp_path: Path) -> None:
    unread = [unread_copy(tmp_path, day) for day in (1, 2)]
    refused = put(tmp_path, 3, 3, 3, refused="E_FAIL")
    assert retain(tmp_path) == []
    assert left(tmp_path) == sorted([*unread, refused])


@given(
    st.lists(st.sampled_from(["sound", "unread", "suspect", "damaged"]), max_size=6),
    st.integers(1, 3),
)
def test_the_newest_copy_that_is_not_suspect_is_never_let_go(kinds: list[str], keep: int) -> None:
    found = [_seen(claim, kind) for claim, kind in enumerate(kinds, 1)]
    gone = {
        one.copy.stamp for one in retention.select(found, Rules(keep_last=keep)) if not one.keep
    }
    sound = [copy.stamp for copy in found if copy.sound]
    assert not gone or sound, "nothing goes before something is beyond suspicion"
    assert not set(sound[-1:]) & gone
    newest = max((copy.claim for copy in found if copy.sound), default=0)
    assert all(copy.claim < newest for copy in found if copy.stamp in gone)
    read = [copy.stamp for copy in found if copy.read_in_full]
    assert not gone or read, "nothing goes before something was read in full"
    assert not set(read[-1:]) & gone


def _seen(claim: int, kind: str) -> Copy:
    stamp = make_stamp(BEGIN + timedelta(days=claim), claim)
    side = make.sidecar(b"", stamp, suspect=stamp if kind == "suspect" else "")
    if kind == "unread":
        side = replace(side, sha256="")
    return Copy(Path("/nas/web01"), stamp, side, 0, "rotten" if kind == "damaged" else "")
