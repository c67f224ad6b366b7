from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.copies import catalogue, chronology, retention
from shared.copies.catalogue import Copy
from shared.copies.copy_files import NasFiles
from shared.copies.names import make_stamp
from shared.copies.retention import Rules, select
from shared.copies.sidecar_fields import Verified
from shared.host.errors import LockLostError
from tests.support import copies as make

BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)


def copies(tmp_path, days, *, bad=(), pins=()):
    """One copy at each of `days` after the beginning, claims in that order.

    Numbers in `bad` do not count, those in `pins` are pinned.
    """
    stamps = [make_stamp(BEGIN + timedelta(days=day), claim) for claim, day in enumerate(days, 1)]
    made = [
        make.sidecar(b"", stamp, pinned="2026-12-01T00:00:00Z" if number in pins else "")
        for number, stamp in enumerate(stamps)
    ]
    return [
        Copy(tmp_path, one.stamp, one, 0, "damaged" if number in bad else "")
        for number, one in enumerate(made)
    ]


def kept(decisions):
    return sorted(decision.copy.claim for decision in decisions if decision.keep)


def test_the_last_ones_stay(tmp_path):
    decisions = select(copies(tmp_path, range(5)), Rules(keep_last=2))
    assert kept(decisions) == [4, 5]
    assert [decision.copy.claim for decision in decisions] == [5, 4, 3, 2, 1]
    assert decisions[0].reasons == ("newest good copy", "last")


def test_each_rule_keeps_the_newest_of_its_periods_and_says_so(tmp_path):
    found = copies(tmp_path, [0, 0.1, 1, 2, 8, 33, 34, 400])
    decisions = select(
        found, Rules(keep_last=1, keep_daily=2, keep_weekly=3, keep_monthly=3, keep_yearly=5)
    )
    reasons = {decision.copy.claim: decision.reasons for decision in decisions}
    assert reasons[8] == (
        "newest good copy",
        "last",
        "daily 2027-02-05",
        "weekly 2027-W05",
        "monthly 2027-02",
        "yearly 2027",
    )
    assert reasons[7] == ("daily 2026-02-04", "weekly 2026-W06", "monthly 2026-02", "yearly 2026")
    assert reasons[6] == ()
    assert reasons[5] == ("weekly 2026-W02", "monthly 2026-01")
    assert kept(decisions) == [5, 7, 8]


def test_only_good_copies_count_and_only_good_copies_go(tmp_path):
    decisions = select(copies(tmp_path, range(6), bad={3, 5}), Rules(keep_last=2))
    assert kept(decisions) == [3, 4, 5, 6]
    assert {decision.copy.claim: decision.reasons for decision in decisions} == {
        6: ("does not count: damaged",),
        5: ("newest good copy", "last"),
        4: ("does not count: damaged",),
        3: ("last",),
        2: (),
        1: (),
    }


def test_pinned_copies_stay_and_use_up_no_number(tmp_path):
    decisions = select(copies(tmp_path, range(5), pins={0, 4}), Rules(keep_last=2))
    assert kept(decisions) == [1, 3, 4, 5]
    assert decisions[-1].reasons == ("pinned",)


def test_a_copy_of_which_number_and_time_disagree_stays_and_so_does_what_it_is_compared_with(
    tmp_path,
):
    found = copies(tmp_path, [0, 300, 1, 2])
    decisions = select(found, Rules(keep_last=1))
    assert kept(decisions) == [2, 3, 4]
    assert decisions[-1].reasons == (), "the first is older than all others by every sign"
    assert f"not known whether it is older than {found[1].stamp}" in next(
        one.reasons for one in decisions if one.copy.claim == 3
    )


@pytest.mark.parametrize("rules", [{"keep_last": 0}, {"keep_daily": -1}, {"keep_yearly": -1}])
def test_rules_that_would_keep_nothing_are_refused(rules):
    with pytest.raises(ValueError, match="at least one"):
        Rules(**rules)


@given(
    st.lists(st.floats(0, 3000), max_size=30),
    st.sets(st.integers(0, 30)),
    st.builds(
        Rules,
        st.integers(1, 5),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    st.sets(st.integers(0, 30)),
)
def test_what_holds_for_all_rules(tmp_path_factory, days, bad, rules, pins):
    found = copies(tmp_path_factory.getbasetemp(), days, bad=bad, pins=pins)
    pinned = {copy.stamp for number, copy in enumerate(found) if number in pins}
    decisions = select(found, rules)
    good = [copy for copy in found if copy.good]
    assert sorted(decision.copy.stamp for decision in decisions) == sorted(
        copy.stamp for copy in found
    )
    stay = {decision.copy.stamp for decision in decisions if decision.keep}
    if good:
        assert chronology.newest_first(good)[0].stamp in stay
    assert pinned <= stay
    assert {copy.stamp for copy in found if not copy.good} <= stay
    assert len([copy for copy in good if copy.stamp in stay]) >= min(len(good), rules.keep_last)
    again = select([decision.copy for decision in decisions if decision.keep], rules)
    assert all(decision.keep for decision in again)


def filled(directory, count=4):
    stamps = [make_stamp(BEGIN + timedelta(days=number), number + 1) for number in range(count)]
    for stamp in stamps:
        make.put_copy(directory, stamp, sides={"vbox": b"<VirtualBox/>", "sav": b"memory"})
    (directory / "notes.txt").write_text("mine")
    return stamps


def test_copies_go_and_foreign_files_stay(tmp_path):
    stamps = filled(tmp_path)
    assert retention.apply(NasFiles(), tmp_path, make.UUID, Rules(keep_last=2)) == stamps[:2]
    found = catalogue.read(tmp_path, None)
    assert [copy.stamp for copy in found.copies] == stamps[2:]
    assert found.foreign == ("notes.txt",)
    assert len(list(tmp_path.iterdir())) == 11
    assert retention.apply(NasFiles(), tmp_path, make.UUID, Rules(keep_last=2)) == []


@pytest.mark.broad
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_operation_leaves_no_half_copy_that_counts_and_is_tidied_by_the_next_run(
    tmp_path, after
):
    for step in range(50):
        directory = tmp_path / str(step)
        stamps = filled(directory)
        try:
            retention.apply(
                make.BreakingFiles(step, after=after), directory, make.UUID, Rules(keep_last=2)
            )
        except make.PowerCutError:
            good = [copy.stamp for copy in catalogue.read(directory, None).good]
            assert good[-2:] == stamps[2:]
            assert all((directory / f"{stamp}.ova").exists() for stamp in good)
            retention.apply(NasFiles(), directory, make.UUID, Rules(keep_last=2))
            assert len(list(directory.iterdir())) == 11
            continue
        assert step >= 20
        return
    pytest.fail("the removal never ended")


def test_the_last_good_copy_is_not_removed_when_the_newer_one_vanished_meanwhile(tmp_path):
    stamps = filled(tmp_path, 3)

    def lose():
        (tmp_path / f"{stamps[2]}.ova").unlink(missing_ok=True)
        (tmp_path / f"{stamps[1]}.ova").unlink(missing_ok=True)

    assert retention.apply(NasFiles(), tmp_path, make.UUID, Rules(keep_last=2), check=lose) == []
    assert catalogue.read(tmp_path, None).latest_good.stamp == stamps[0]


def test_a_copy_that_is_pinned_while_retention_runs_stays(tmp_path):
    stamps = filled(tmp_path)

    def pin():
        (tmp_path / f"{stamps[0]}.json").write_bytes(
            make.sidecar(b"bytes of an ova", stamps[0], pinned="2026-12-01T00:00:00Z").render()
        )

    assert retention.apply(NasFiles(), tmp_path, make.UUID, Rules(keep_last=2), check=pin) == [
        stamps[1]
    ]


def test_a_lost_claim_ends_the_removal(tmp_path):
    filled(tmp_path)

    def lost():
        raise LockLostError("taken over")

    with pytest.raises(LockLostError):
        retention.apply(NasFiles(), tmp_path, make.UUID, Rules(keep_last=1), check=lost)
    assert len(catalogue.read(tmp_path, None).good) == 4


def test_leftovers_of_a_publication_or_of_others_are_not_touched(tmp_path):
    stamps = filled(tmp_path)
    for stamp in stamps[:2]:
        (tmp_path / f"{stamp}.sha256").unlink()
        (tmp_path / f"{stamp}.ova").unlink()
    (tmp_path / f".{stamps[1]}.2.partial.ova").write_bytes(b"x")
    (tmp_path / f"{stamps[2]}.json").unlink()
    assert retention.remove_leftovers(NasFiles(), tmp_path, make.UUID) == [stamps[0]]
    assert (tmp_path / f"{stamps[1]}.json").exists()
    assert (tmp_path / f"{stamps[2]}.ova").exists()


def test_a_damaged_copy_is_never_removed_silently(tmp_path):
    stamps = filled(tmp_path)
    (tmp_path / f"{stamps[0]}.json").write_bytes(
        make.sidecar(
            b"bytes of an ova", stamps[0], verified=Verified("2026-12-01T00:00:00Z", "digest wrong")
        ).render()
    )
    assert retention.apply(NasFiles(), tmp_path, make.UUID, Rules(keep_last=1)) == stamps[1:3]
    assert (tmp_path / f"{stamps[0]}.ova").exists()
