"""How workers end is noted on their host, but not that they were stopped."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.host.configuration import Configuration
from shared.host.errors import ExitCode, LockedError, NasError
from shared.state.sessions.worker_ends import read_ends
from worker import report


@pytest.fixture
def end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], Any]:
    """Runs a worker that ends in this way, and answers the code that is noted; None if none is."""
    settings: dict[str, Any] = {
        "nas": {"mountpoint": tmp_path / "nas", "require_mount": False},
        "host": {"node": "alpha", "state_directory": tmp_path / "state"},
        "virtualbox": {},
        "backup": {},
        "policy": {},
    }
    configuration = Configuration.model_validate(settings)
    monkeypatch.setattr("shared.site.open_site", lambda *_: None)
    monkeypatch.setattr("worker.clone_sweep.sweep", lambda _: None)
    invocation: Any = SimpleNamespace(configuration=lambda: configuration)

    def run(error: BaseException | None) -> int | None:
        def work(_site: object) -> report.Report:
            if error is not None:
                raise error
            return report.Report()

        if error is None:
            report.start(invocation, "verify", work)
        else:
            with pytest.raises(type(error)):
                report.start(invocation, "verify", work)
        found = read_ends(tmp_path / "state", tmp_path / "nas").get("verify")
        return None if found is None else found.code

    return run


def test_each_end_is_noted_with_its_code(end: Callable[[BaseException | None], Any]) -> None:
    assert end(NasError("away")) == ExitCode.NAS
    assert end(RuntimeError("a fault")) == ExitCode.FAILURE
    assert end(None) == ExitCode.DONE


@pytest.mark.parametrize("stopped", [SystemExit(143), KeyboardInterrupt()])
def test_one_that_was_stopped_leaves_the_note_of_the_time_before(
    end: Callable[[BaseException | None], Any], stopped: BaseException
) -> None:
    assert end(stopped) is None
    assert end(None) == ExitCode.DONE
    assert end(stopped) == ExitCode.DONE


def test_who_asked_for_something_is_told_that_all_workers_of_that_kind_are_busy(
    tmp_path: Path,
) -> None:
    host = SimpleNamespace(state_directory=tmp_path)
    invocation: Any = SimpleNamespace(configuration=lambda: SimpleNamespace(host=host))

    def work(_site: object) -> report.Report:
        raise AssertionError("it began")

    with report.slot(tmp_path, "backup") as mine:
        assert mine
        assert report.start(invocation, "backup", work) == ExitCode.DONE, (
            "cron started one too many"
        )
        with pytest.raises(LockedError, match="already runs on this host: nothing was done"):
            report.start(invocation, "backup", work, asked=True)
