"""Commits in the words of people."""

from dataclasses import replace
from typing import Any

import pytest

from shared.reports.happenings import happenings
from shared.state.contents import Contents
from shared.state.hold import Hold
from shared.state.host_records import SessionRecord
from shared.state.records import Claim, CopyRecord, Power, Restoration, VmRecord
from shared.state.states import State
from shared.state.store.header import Header
from shared.tasks import commit_reasons

OLD, NEW = "20261128T203800Z-7", "20261129T203800Z-17"
WHEN = "2026-11-29T20:40:00Z"


def copy(stamp: str = NEW) -> CopyRecord:
    return CopyRecord(stamp, 17, 3 << 30, "0" * 64, WHEN, {})


VM = VmRecord(
    "web", "web", "00000000-0000-4000-8000-000000000001", "alpha", "web", State.CLEAN, WHEN,
    last_copy=copy(OLD), backed_up="2026-11-28T20:40:00Z",
)  # fmt: skip
HELD = replace(VM, status=State.BACKUP_IN_PROGRESS, claim=Claim("s", 17, "backup", WHEN))
HOLD = Hold(OLD, "beta", "web-now", WHEN)
READ = replace(VM, claim=Claim("s", 18, "verify", WHEN))


def said(old: VmRecord | None, new: VmRecord | None, reason: str = "") -> list[tuple[str, str]]:
    header = Header("r", 5, "0" * 64, "s", 1, "alpha", WHEN, reason)
    before, after = (Contents(vms={one.key: one} if one else {}) for one in (old, new))
    return [(each.kind, each.what) for each in happenings(before, after, header)]


def but(record: VmRecord, **values: Any) -> VmRecord:
    return replace(record, **values)


@pytest.mark.parametrize(
    ("old", "new", "reason", "expected"),
    [
        (None, VM, "", [("found", "found on alpha")]),
        (VM, None, "", [("forgotten", "its record was deleted; its copies stay")]),
        (VM, but(VM, key="db"), "", [("renamed", "was called web before")]),
        (VM, but(VM, node="beta"), "", [("moved", "moved from alpha to beta")]),
        (VM, but(VM, missing_since=WHEN), "", [("gone", "its host does not have it any more")]),
        (VM, but(VM, left_out="off"), "", [("left-out", "left out of backups: off")]),
        (VM, but(VM, status=State.RUNNING), "", [("started", "runs")]),
        (
            but(VM, status=State.RUNNING),
            but(VM, status=State.BACKUP_NECESSARY),
            "",
            [("used", "was used: its backup is due")],
        ),
        (
            but(HELD, status=State.BACKUP_NECESSARY, claim=None),
            HELD,
            "",
            [("began", "its backup began")],
        ),
        (
            HELD,
            but(HELD, power=Power("savestate", "running", 17)),
            "",
            [("touched", "saved for its backup")],
        ),
        (
            HELD,
            but(VM, last_copy=copy(), backed_up=WHEN),
            commit_reasons.with_removed(f"web is clean: {NEW}", [OLD]),
            [
                ("copied", f"backed up: copy {NEW}, 3.0 GiB"),
                ("removed", f"copy {OLD} removed"),
            ],
        ),
        (
            HELD,
            but(VM, status=State.BACKUP_NECESSARY, failures=1, last_error="no", last_error_at=WHEN),
            "",
            [("failed", "backup failed: no")],
        ),
        (
            HELD,
            but(VM, status=State.BACKUP_NECESSARY, last_error="stopped", last_error_at=WHEN),
            "",
            [("interrupted", "backup did not end: stopped")],
        ),
        (
            HELD,
            but(VM, status=State.RUNNING),
            "",
            [("skipped", "not backed up: it was found running")],
        ),
        (
            but(VM, status=State.BACKUP_NECESSARY),
            but(VM, status=State.BACKUP_NECESSARY, waiting="waits for its window"),
            "",
            [("skipped", "not backed up: it waits for its window")],
        ),
        (
            READ,
            VM,
            commit_reasons.verified("web", OLD, "good"),
            [("verified", f"copy {OLD} read in full, and good")],
        ),
        (
            READ,
            but(VM, damaged=(OLD,), last_copy=None),
            commit_reasons.verified("web", OLD, "a digest is wrong"),
            [
                ("damaged", f"copy {OLD} damaged: a digest is wrong"),
                ("lost", f"copy {OLD} does not count any more"),
            ],
        ),
        (
            READ,
            but(VM, status=State.BACKUP_NECESSARY, last_copy=None, backed_up=""),
            commit_reasons.removed_by_hand("web", OLD),
            [("removed", f"copy {OLD} removed")],
        ),
        (
            READ,
            but(VM, last_copy=None, backed_up=""),
            "?",
            [("vanished", f"copy {OLD} is gone")],
        ),
        (
            READ,
            but(VM, last_copy=copy()),
            "?",
            [("lost", f"copy {OLD} does not count any more")],
        ),
        (READ, but(VM, damaged=(OLD,)), "?", [("damaged", f"copy {OLD} is damaged")]),
        (
            READ,
            VM,
            commit_reasons.rehearsed("web", OLD, "it does not start"),
            [("unrestorable", f"rehearsed: copy {OLD} does not come back: it does not start")],
        ),
        (READ, VM, commit_reasons.rehearsed("db", OLD, "good"), []),
        (
            VM,
            but(VM, claim=Claim("s", 18, "pin", WHEN)),
            commit_reasons.pinned("web", OLD, pinned=False),
            [("unpin", f"copy {OLD} unpinned")],
        ),
        (
            VM,
            but(VM, restored=Restoration(OLD, "beta", "web-2", "u", WHEN)),
            "",
            [("restored", f"copy {OLD} restored on beta as web-2")],
        ),
        (
            but(VM, restored=Restoration(OLD, "beta", "web-2", "u", WHEN)),
            VM,
            "",
            [("undone", f"what it had before it was taken back to {OLD} is back")],
        ),
        (
            VM,
            but(VM, holds=(HOLD,)),
            "",
            [("held", f"beta:web-now runs from copy {OLD}, which stays meanwhile")],
        ),
        (
            but(VM, holds=(HOLD,)),
            but(VM, holds=(replace(HOLD, ended=WHEN),)),
            "",
            [("let-go", f"beta:web-now does not need copy {OLD} any more")],
        ),
        (but(VM, holds=(HOLD,)), but(VM, holds=(replace(HOLD, uuid="u"),)), "", []),
        (but(VM, holds=(replace(HOLD, ended=WHEN),)), VM, "", []),
        (
            VM,
            but(VM, status=State.ARCHIVED, moving="archive"),
            "",
            [("archive", "archived")],
        ),
    ],
)
def test_each_thing_that_happens_to_a_vm(
    old: VmRecord | None, new: VmRecord | None, reason: str, expected: list[tuple[str, str]]
) -> None:
    assert said(old, new, reason) == expected


def test_a_worker_that_died_is_told_of() -> None:
    row = SessionRecord("a.1.f", 1, 1, "live", "alpha", "backup")
    before = Contents(sessions={row.id: row})
    after = Contents(sessions={row.id: replace(row, state="expired")})
    header = Header("r", 5, "0" * 64, "s", 1, "beta", WHEN, "expired a.1.f")
    (only,) = happenings(before, after, header)
    assert (only.kind, only.vm, only.host) == ("died", "", "beta")
    assert "backup worker a.1.f" in only.what
