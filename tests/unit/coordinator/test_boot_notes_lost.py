"""A VM that runs from a copy, and of which its host has lost the note: it is told by its hold."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.state.sessions.host_look import Stuck
from shared.tasks import hold_judgement
from shared.tasks.boot_note import BootNote
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_boot_command import note, operator
from tests.unit.coordinator.test_stuck_told import SINCE, elsewhere, held, said
from worker import notifier

__all__ = ["held", "note", "operator"]


@pytest.mark.parametrize("lost", [lambda file: file.unlink(), lambda file: file.write_text("{")])
def test_one_of_which_its_host_has_no_note_any_more_is_told_on_all(
    operator: Operator, held: BootNote, lost: Callable[[Path], object]
) -> None:
    lost(held.file)
    told = SINCE + "its host has no note of it that can be read"
    for _ in range(2):  # the second time from another host
        assert said(operator) == [("WARNING", told, "on alpha: vmbackup-admin doctor")]
        notifier.note_look(operator.site(), operator.contents, {}, {})
        operator = elsewhere(operator)


def test_who_has_not_the_notes_of_this_host_misses_none(
    operator: Operator, held: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user, or another machine of that name."""
    held.file.unlink()
    site, contents = operator.site(), operator.contents
    assert hold_judgement.stuck_here(site, contents) == {"trial": Stuck("unnoted")}
    record = contents.nodes["alpha"]
    for other in (replace(record, user=str(os.geteuid() + 1)), replace(record, machine="x")):
        assert hold_judgement.stuck_here(site, contents.with_node(other)) == {}
    monkeypatch.setattr(hold_judgement.os, "geteuid", lambda: os.getuid() + 1)
    assert hold_judgement.stuck_here(site, contents) == {}


def test_a_state_directory_that_is_lost_is_one_without_notes(
    operator: Operator, held: BootNote
) -> None:
    site = operator.site()
    shutil.rmtree(held.file.parent)
    assert hold_judgement.stuck_here(site, operator.contents) == {"trial": Stuck("unnoted")}
