"""Exit code 13 where the manual says it.

The NAS is why something was not done, whoever else failed for other reasons.
"""

from collections.abc import Callable

import pytest

from shared.host.errors import CopyError, ExitCode, NasError
from shared.nas.mount import check_nas
from tests.simulated.conftest import Rig, planned
from tests.simulated.test_hang_up import program
from tests.simulated.test_verify import OLD, age, two_copies
from worker import verify
from worker.backup import admission
from worker.backup import worker as backup
from worker.report import Report


@pytest.mark.parametrize("worker", ["backup", "run"])
def test_a_full_nas_ends_the_programs_with_13_and_is_said_each_time(rig: Rig, worker: str) -> None:
    rig.host().make_vm("web01")
    rig.look()
    for _ in range(2):
        process = program(rig, "-v", worker, reserve=2**60)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 13
        assert "there is no room for the copy: it needs about" in said
    assert rig.record("web01").waiting.startswith("waits for room on the NAS")


def test_a_nas_that_does_not_let_us_write_ends_the_round_before_anything_is_claimed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    site = rig.look()
    before = site.database.head().generation

    def refuse(*_: object, **__: object) -> object:
        raise NasError("the NAS is mounted read-only")

    monkeypatch.setattr(admission, "check_nas", refuse)
    with pytest.raises(NasError):
        backup.run(rig.site())
    assert rig.site().database.head().generation == before


@pytest.mark.parametrize("fault", [{"export_disk_full_at": 50}])
def test_a_copy_that_did_not_fit_has_failed_with_13(rig: Rig, fault: dict[str, object]) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().fault(vm, **fault)
    rig.look()
    outcome = backup.run(rig.site())
    assert (outcome.exit_code, outcome.failed, rig.record("web01").failures) == (
        ExitCode.NAS,
        ["web01"],
        1,
    )


def test_a_nas_that_goes_away_in_the_middle_has_failed_with_13(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    calls = []

    def away(*arguments: object, **more: object) -> object:
        calls.append(arguments)
        raise NasError("the NAS did not answer within 30 seconds")

    monkeypatch.setattr("worker.backup.publish.check_nas", away)
    outcome = backup.run(rig.site())
    assert (outcome.exit_code, outcome.failed, len(calls)) == (ExitCode.NAS, ["web01"], 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [(NasError("the NAS is away"), ExitCode.NAS), (CopyError("damaged"), ExitCode.SOME_FAILED)],
)
def test_a_verification_that_the_nas_does_not_let_begin_ends_with_13(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, code: ExitCode
) -> None:
    age(rig, "web01", *two_copies(rig), to=OLD)

    def fail(*_: object) -> object:
        raise error

    monkeypatch.setattr("shared.tasks.verification.verify_copy", fail)
    assert verify.run(rig.site()).exit_code == code


OUTCOMES: list[tuple[Callable[[Report], object], ExitCode]] = [
    (lambda outcome: None, ExitCode.DONE),
    (lambda outcome: outcome.postponed.append("a"), ExitCode.DONE),
    (lambda outcome: outcome.deferred.append("a"), ExitCode.SOME_DEFERRED),
    (lambda outcome: outcome.fail("b", CopyError("damaged")), ExitCode.SOME_FAILED),
    (lambda outcome: outcome.fail("c", NasError("full")), ExitCode.NAS),
]


def test_the_nas_is_told_before_what_else_failed() -> None:
    outcome = Report()
    for happens, code in OUTCOMES:
        happens(outcome)
        assert outcome.exit_code == code


def test_the_probe_is_asked_once_for_all_that_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vms(3)
    rig.look()
    calls = []

    def counted(*arguments: object, **more: object) -> object:
        calls.append(arguments)
        return check_nas(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(admission, "check_nas", counted)
    assert len(planned(rig.site())) == 3
    assert len(calls) == 1
