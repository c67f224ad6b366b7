"""A move of copies that is killed at any operation loses none, and the next run finishes it."""

import pytest

from shared.copies import catalogue
from shared.copies.copy_files import NasFiles
from shared.copies.copying import Route
from shared.copies.moving import move_copies
from tests.support import copies as make
from tests.unit.copies.test_moving import STAMPS, assert_moved, filled, route, whole_somewhere

KINDS = [make.BreakingFiles, make.BreakingLinklessFiles, make.BreakingTwoFileSystems]
UNBROKEN = {
    make.BreakingFiles: NasFiles,
    make.BreakingLinklessFiles: make.LinklessFiles,
    make.BreakingTwoFileSystems: make.TwoFileSystems,
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_operation_no_copy_is_lost_and_the_next_run_finishes(tmp_path, kind, after):
    for step in range(200):
        root = tmp_path / str(step)
        filled(root)
        files = kind(step, after=after)
        try:
            move_copies(files, route(root))
        except make.PowerCutError:
            assert all(whole_somewhere(root, stamp) for stamp in STAMPS), files.done
            second = UNBROKEN[kind]()
            assert move_copies(second, route(root, claim=31)).problems == (), files.done
            assert_moved(root)
            continue
        assert step >= 20
        return
    pytest.fail("the move never ended")


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_then_undone(tmp_path, kind):
    """The operator changes her mind after a crash: what arrived goes back, what did not stays."""
    for step in range(200):
        root = tmp_path / str(step)
        filled(root)
        try:
            move_copies(kind(step), route(root))
        except make.PowerCutError:
            second = UNBROKEN[kind]()
            back = move_copies(
                second, Route(root / "archive" / "web", root / "nas" / "web", make.UUID, claim=31)
            )
            assert all(problem.reason == "its .ova is missing" for problem in back.problems)
            assert [
                copy.stamp for copy in catalogue.read(root / "nas" / "web", None).good
            ] == STAMPS
            continue
        return
    pytest.fail("the move never ended")
