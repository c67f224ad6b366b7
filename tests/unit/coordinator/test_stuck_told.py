"""A VM that runs from a copy and does not get on: monitoring tells it on each host."""

import errno
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.doctor import unfinished
from coordinator.lock import program as lock
from shared.host.host_lock import host_lock
from shared.host.process_identity import ProcessIdentity
from shared.serving import places
from shared.state.hold import Hold
from shared.state.rules.events import EventKey
from shared.state.sessions.host_look import LONGEST_WHY, Stuck, read_look
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.tasks import boot_mounts, boot_note, boot_progress
from shared.tasks.boot_note import BootNote, Phase
from shared.tasks.event_message import words
from shared.virtualbox import scratch
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_boot_command import STAMP, note, operator
from worker import notifier

__all__ = ["note", "operator"]
SENTENCE = f"web: trial on alpha runs from its copy {STAMP}, and nothing serves its disks"
REMEDY = "on alpha: vmbackup-admin boot --finish trial"


@pytest.fixture
def held(operator: Operator, note: BootNote) -> BootNote:
    """`note`, whose copy is held, and whose server is dead."""
    operator.set("web", holds=(Hold(STAMP, "alpha", "trial", note.since, note.index, note.uuid),))
    note.filling.mkdir(parents=True)
    return note


def said(operator: Operator) -> list[tuple[str, str, str]]:
    """What `check` says of the VM besides that nobody has looked at it: all of it as a person."""
    done = operator.admin("check", "web", "--json")
    assert done.exit_code != 0
    (vm,) = json.loads(done.stdout)["vms"]
    rows = [vm, *vm["also"]]
    return [
        (row["level"], row["reason"], row["remedy"] or "") for row in rows if row["kind"] == "stuck"
    ]


def elsewhere(operator: Operator) -> Operator:
    """Another host, where nothing is noted of what runs on the first one."""
    other = Operator(operator.folder, "beta")
    other.configure()
    return other


def test_check_tells_it_with_what_helps(operator: Operator, held: BootNote) -> None:
    assert f"WARNING: {SENTENCE} - " in operator.admin("check").stdout
    assert said(operator) == [("WARNING", SENTENCE.removeprefix("web: "), REMEDY)]
    assert held.uuid


def test_the_list_of_locks_tells_it(operator: Operator, held: BootNote) -> None:
    (row,) = operator.json("list", program=lock)["holds"]
    assert row["problem"] == "nothing serves its disks"
    assert "and nothing serves its disks: it ends on alpha: " in operator.lock("list").stdout
    assert "and nothing serves its disks: " in operator.lock("show", "alpha:trial").stdout
    assert not held.is_whole


@pytest.mark.parametrize(
    ("told", "words", "remedy"),
    [
        ({}, None, ""),
        ({"unread": "away"}, "asked for what could not be read (away)", "boot web --as trial"),
        ({"short": 1 << 30}, "for want of room (1.0 GiB)", "on alpha: vmbackup-admin doctor"),
        ({"problem": "no\x1b[2J"}, "and no\\x1b[2J", REMEDY),
    ],
)
def test_one_that_is_served_is_told_only_if_it_does_not_get_on(
    operator: Operator,
    held: BootNote,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, Any],
    words: str | None,
    remedy: str,
) -> None:
    monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
    held.progress.write({"filled": 1, "total": 2, **told})
    found = said(operator)
    if words is None:
        assert found == []
        return
    ((level, reason, helps),) = found
    assert (level, words in reason, remedy in helps) == ("WARNING", True, True), found


def test_one_on_which_somebody_works_is_no_problem(operator: Operator, held: BootNote) -> None:
    with host_lock(held.file.parent, held.file.stem) as mine:
        assert mine
        assert said(operator) == []
        assert boot_progress.progress(held).words.endswith(" filled, and being worked on")
    assert len(said(operator)) == 1


def test_its_host_notes_it_and_others_tell_it(operator: Operator, held: BootNote) -> None:
    notifier.note_look(operator.site(), operator.contents, {}, {})
    node = operator.vmstate / "node"
    look = read_look(node, "alpha", operator.database().identity.machine)
    assert look is not None
    assert look.stuck == {"trial": Stuck("unserved")}
    other = elsewhere(operator)
    assert said(other) == [("WARNING", SENTENCE.removeprefix("web: "), REMEDY)]
    shown = " ".join(other.admin("status", "--problems").stdout.split())
    assert SENTENCE.removeprefix("web: ") in shown
    operator.set("web", holds=(replace(operator.record("web").holds[0], ended="2026-11-22"),))
    assert said(operator) == []


def test_what_is_so_by_now_counts_more_than_what_was_noted(
    operator: Operator, held: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier.note_look(operator.site(), operator.contents, {}, {})
    monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
    assert said(operator) == []
    assert boot_note.advanced(held, Phase.RUNNING).phase == Phase.RUNNING


@pytest.mark.parametrize("why", ["of a later release", "unserved"])
def test_a_long_story_is_cut_and_an_unknown_one_is_told(
    operator: Operator, held: BootNote, why: str
) -> None:
    site = operator.site()
    seen = VmsSeen((), (), (), {held.name: Stuck(why, "x" * 9999)})
    write_look(operator.vmstate / "node", site.identity, site.clock, seen, {})
    ((_, reason, _),) = said(elsewhere(operator))
    assert ("x" * LONGEST_WHY in reason, "x" * (LONGEST_WHY + 1) in reason) == (True, False)


def test_a_look_that_says_nonsense_of_it_says_nothing(operator: Operator, tmp_path: Path) -> None:
    site = operator.site()
    write_look(tmp_path, site.identity, site.clock, VmsSeen((), (), ()), {})
    path = tmp_path / ".look-alpha"
    whole = path.read_text(encoding="utf-8")
    for nonsense in ('"stuck": [1]', '"stuck": {"a": 7}', '"stuck": {"a": {}}'):
        path.write_text(whole.replace('"stuck": {}', nonsense), encoding="utf-8")
        assert read_look(tmp_path, "alpha", site.identity.machine) is None, nonsense


def test_its_message_is_in_words_also_when_it_is_over() -> None:
    assert words(EventKey("vms", "web", "stuck")).endswith("does not get on")


def test_a_mount_in_a_closed_directory_of_another_user_is_none_of_its_own(
    operator: Operator, held: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of a folder that cannot be looked at is an error, whoever it is that looks."""
    closed = Path(f"/{'x' * 300}")  # too long a name is none that is looked at by anybody
    with pytest.raises(OSError, match="too long"):
        closed.lstat()
    foreign = [places.MountedCopy(str(closed / "disks"), "web")]
    monkeypatch.setattr(places, "mounted", lambda **_: foreign)
    assert scratch.mark_in(closed) is None
    assert said(operator) == [("WARNING", SENTENCE.removeprefix("web: "), REMEDY)]
    assert boot_mounts.moved_to(held) is None


def test_one_that_cannot_be_looked_at_hides_no_other(
    operator: Operator, held: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = held.file.parent
    boot_note.write(replace(held, file=boot_note.new_file(state), name="closed"))

    def moved_to(note: BootNote) -> None:
        if note.name == "closed":
            raise PermissionError(errno.EACCES, "closed")

    monkeypatch.setattr(boot_mounts, "moved_to", moved_to)
    assert boot_progress.stuck_here(state) == {"trial": Stuck("unserved")}
    assert [each.document["name"] for each in boot_progress.shown(state)] == ["trial"]
    assert len(said(operator)) == 1


@pytest.mark.parametrize(("age", "whole"), [(20, False), (200, False), (400, True), (400, False)])
def test_one_of_whose_server_nothing_is_heard_for_minutes_does_not_get_on(
    operator: Operator, held: BootNote, monkeypatch: pytest.MonkeyPatch, age: int, whole: bool
) -> None:
    """It was stopped: its process is there, and what it serves is mounted."""
    own = ProcessIdentity.of(os.getpid())
    assert own is not None
    monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
    who = {"pid": own.pid, "started": own.started, "born": own.born}
    held.progress.write({**who, "filled": 1, "total": 2, "short": 1 << 30})
    if whole:
        held.whole.write({"stamp": held.stamp, "index": held.index})
    os.utime(held.progress.path, times=(time.time() - age,) * 2)
    ((_, reason, remedy),) = said(operator)
    told = f"nothing is heard of its server, process {own.pid}: if it was stopped, `kill -CONT"
    silent = age > 300 and not whole
    assert (told in reason, "for want of room" in reason) == (silent, not silent), reason
    assert (remedy == REMEDY) == silent
    (check,) = unfinished.examine(operator.configuration)
    assert (check.verdict, told in check.seen) == ("warn", silent)


def test_one_that_needs_no_server_any_more_is_not_said_to_lack_one(
    operator: Operator, held: BootNote
) -> None:
    """What its guest wrote could not be merged, or it was started before that was done."""
    placed = boot_note.advanced(held, Phase.PLACED)
    ((level, reason, remedy),) = said(operator)
    assert (level, remedy) == ("WARNING", REMEDY)
    assert reason.endswith("it needs that no more, " + boot_progress.UNMERGED)
    assert "filled, but what its guest wrote" in boot_progress.progress(placed).words
    (check,) = unfinished.examine(operator.configuration)
    assert (check.verdict, "--finish trial" in check.hint) == ("warn", True)
    assert "discard" not in check.hint, "that refuses one whose disks are placed"
    with host_lock(held.file.parent, held.file.stem) as mine:
        assert mine
        assert said(operator) == []
