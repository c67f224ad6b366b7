"""A VM that is off and that somebody has open, in a dialog with its settings."""

from typing import Any
from unittest.mock import Mock

import pytest

from shared.state.states import Event
from shared.virtualbox.export_errors import VmRunsError
from shared.virtualbox.inventory import Machine
from worker.backup import freeze_choice, method

OFF = Machine("a", "web01", "/vms/web01/web01.vbox", state="poweroff", opened=True)


def test_no_backup_of_it_begins() -> None:
    work: Any = Mock()
    work.record.key = "web01"
    with pytest.raises(VmRunsError, match="web01 is poweroff, and somebody has it open"):
        method.choose_method(work, OFF)


def test_a_copy_of_what_it_still_is_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened while its copy was made: it was not used, so no further backup is needed."""
    monkeypatch.setattr(freeze_choice, "fingerprint_of", lambda machine: "as it was")
    monkeypatch.setattr(
        freeze_choice, "differences", lambda one, other: [] if one == other else ["it"]
    )
    work: Any = Mock()
    work.machine.return_value = OFF
    assert freeze_choice.publication_event(work, "as it was") == Event.PUBLISHED  # type: ignore[arg-type]
    assert freeze_choice.publication_event(work, "other") == Event.PUBLISHED_CHANGED  # type: ignore[arg-type]
