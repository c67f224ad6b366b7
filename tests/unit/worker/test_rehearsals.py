"""Rehearsals by schedule on a host that can do nothing with copies: no VM is made here."""

import contextlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.copies.sidecar_fields import Rehearsed
from shared.host.clock import timestamp
from shared.host.errors import LockedError, NasError, VBoxManageError, VmBackupError
from shared.state.records import VmRecord
from shared.tasks import due_rehearsals, rehearsal
from shared.tasks.noted_import import Progress
from tests.unit.state.builders import StillClock, vm
from worker import rehearsals
from worker.report import Report

NOW = StillClock().now()
SHARE, LEFT = "rehearsed-today.json", "rehearsals-left.json"


class Host:
    """A host to which the copies of some VMs are due; `ends` says how its rehearsals end."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.due = folder, [vm(name) for name in names]
        self.ends: VmBackupError | None = None
        self.reads, self.limit = True, 1000
        #: What it did, in order.
        self.did: list[str] = []

    @property
    def site(self) -> Any:
        session = SimpleNamespace(read_copy=lambda *_a, **_k: None, doing=SimpleNamespace())
        head = SimpleNamespace(contents=SimpleNamespace(vms={}, sessions={}))
        return SimpleNamespace(
            clock=StillClock(),
            node="alpha",
            configuration=SimpleNamespace(
                host=SimpleNamespace(state_directory=self.folder),
                backup=SimpleNamespace(verify_bytes=self.limit),
            ),
            policy=lambda _record: SimpleNamespace(rehearse_seconds=1),
            database=SimpleNamespace(
                head=lambda: head, session=lambda _kind: contextlib.nullcontext(session)
            ),
        )

    def rehearse(
        self, _turn: object, site: Any, record: VmRecord, copy: Any, _wishes: object, tell: Progress
    ) -> rehearsal.Rehearsal:
        self.did.append(record.key)
        for what in ("verify", "import") if self.reads else ():
            tell(what, 0)
        if self.ends:
            raise self.ends
        when = timestamp(site.clock.now())
        result = Rehearsed(when, site.node, "good", "it ran", booted=True)
        return rehearsal.Rehearsal(copy.stamp, result, recorded=True)

    def tick(self) -> Report:
        report = Report()
        rehearsals.run(self.site, report)
        return report


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """One to which `a`, `b` and `c` are due."""
    made = Host(tmp_path, "a", "b", "c")

    def unfit(*_arguments: object) -> str:
        made.did.append("judged")
        return ""

    @contextlib.contextmanager
    def alone(_site: object) -> Iterator[rehearsal.RehearsalTurn]:
        made.did.append("alone")
        yield rehearsal.RehearsalTurn()

    copy = SimpleNamespace(stamp="20261122T203800Z-1", size=700)
    monkeypatch.setattr(due_rehearsals, "due", lambda *_arguments: made.due)
    monkeypatch.setattr(due_rehearsals, "newest_copy", lambda *_arguments: copy)
    monkeypatch.setattr(rehearsals, "unfit", unfit)
    monkeypatch.setattr(rehearsals, "occupied", lambda _copy: "")
    monkeypatch.setattr(rehearsal, "alone", alone)
    monkeypatch.setattr(rehearsal, "rehearse", made.rehearse)
    return made


def test_one_is_rehearsed_at_a_tick_with_the_lock_taken_before_anything_is_judged(
    host: Host,
) -> None:
    assert host.tick().done == ["a"]
    assert host.did == ["alone", "judged", "a"]
    assert json.loads((host.folder / SHARE).read_text())["bytes"] == 700


@pytest.mark.parametrize("error", [VBoxManageError("no VT-x"), NasError("it stalls")])
def test_a_host_that_can_start_nothing_stops_after_two_and_leaves_them_to_others(
    host: Host, error: VmBackupError
) -> None:
    host.ends, host.limit = error, 10_000
    report = host.tick()
    assert [each for each in host.did if each in "abc"] == ["a", "b"]
    assert report.failed == ["a", "b"]
    assert report.nas == (report.failed if isinstance(error, NasError) else [])
    assert host.tick().failed == ["c"], "not those again that have just failed here"
    host.folder, host.ends = host.folder / "state-of-another-host", None
    assert host.tick().done == ["a"]


def test_a_vm_that_failed_here_is_tried_here_again_a_day_later(host: Host) -> None:
    host.due, host.ends = host.due[:1], VBoxManageError("no VT-x")
    assert host.tick().failed == ["a"]
    (host.folder / SHARE).unlink()
    assert host.tick() == Report()
    early = timestamp(NOW - timedelta(days=1))
    (host.folder / LEFT).write_text(json.dumps({host.due[0].uuid: early, "x": 7}))
    assert host.tick().failed == ["a"]
    assert json.loads((host.folder / LEFT).read_text()) == {host.due[0].uuid: timestamp(NOW)}
    (host.folder / SHARE).unlink()
    (host.folder / LEFT).write_text("nonsense")
    assert host.tick().failed == ["a"]


@pytest.mark.parametrize("error", [LockedError("it is held"), NasError("its directory is away")])
def test_what_could_not_begin_takes_nothing_of_the_share_and_hinders_no_other(
    host: Host, error: VmBackupError
) -> None:
    host.ends, host.reads = error, False
    report = host.tick()
    assert [each for each in host.did if each in "abc"] == ["a", "b", "c"]
    assert report.failed == ([] if isinstance(error, LockedError) else ["a", "b", "c"])
    assert list(host.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "failed"), [(LockedError("another one"), []), (VBoxManageError("a disk"), ["a"])]
)
def test_without_the_lock_or_with_what_a_killed_one_left_nothing_begins(
    host: Host, monkeypatch: pytest.MonkeyPatch, error: VmBackupError, failed: list[str]
) -> None:
    def alone(_site: object) -> None:
        raise error

    monkeypatch.setattr(rehearsal, "alone", alone)
    assert (host.tick().failed, host.did, list(host.folder.iterdir())) == (failed, [], [])


def test_with_nothing_due_not_even_the_lock_is_taken(host: Host) -> None:
    host.due = []
    assert (host.tick(), host.did) == (Report(), [])
