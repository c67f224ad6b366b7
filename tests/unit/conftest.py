"""What makes units fast."""

import os
from collections.abc import Sequence
from typing import Any

import pytest

from shared.host.processes import Completed, SubprocessRunner
from shared.nas import probe


@pytest.fixture
def probe_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The NAS, a directory that always answers, is asked without a process of its own.

    That takes a millisecond instead of twenty. `tests/unit/nas/test_mount.py` has the process.
    """
    run = SubprocessRunner.run

    def run_here(self: SubprocessRunner, arguments: Sequence[str], **more: Any) -> Completed:
        if probe.__file__ not in arguments:
            return run(self, arguments, **more)
        asked = arguments[list(arguments).index(probe.__file__) + 1 :]
        said = os.fsencode(probe.main(*asked)).decode("utf-8", "backslashreplace")
        return Completed(tuple(arguments), 0, said, "")

    monkeypatch.setattr(SubprocessRunner, "run", run_here)
