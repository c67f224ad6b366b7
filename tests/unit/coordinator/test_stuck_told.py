"""A VM that runs from a copy and does not get on: monitoring tells it on each host."""

import errno
import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.doctor import unfinished
from coordinator.lock import program as lock
from shared.host.clock import timestamp
from shared.host.host_lock import host_lock
from shared.host.process_identity import ProcessIdentity
from shared.serving import places
from shared.state.hold import Hold
from shared.state.rules.events import EventKey
from shared.state.sessions.host_look import LONGEST_WHY, Stuck, read_look
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.tasks import (
    boot_machine,
    boot_mounts,
    boot_note,
    boot_progress,
    boot_remedies,
    boots_here,
)
from shared.tasks.boot_note import BootNote, Phase
from shared.tasks.event_message import words
from shared.virtualbox import scratch
from tests.unit.coordinator.conftest import WHEN, Operator
from tests.unit.coordinator.test_boot_command import STAMP, note, operator
from worker import notifier

__all__ = ["note", "operator"]
SINCE = f"trial on alpha runs from its copy {STAMP} since {WHEN}, and "
SENTENCE = f"web: {SINCE}nothing serves its disks"
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
    assert boots_here.stuck_here(state) == {"trial": Stuck("unserved")}
    assert [each.document["name"] for each in boots_here.shown(state)] == ["trial"]
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
    ends = f"on alpha: kill -KILL {own.pid} && vmbackup-admin boot --finish trial"
    assert (remedy == ends) == silent
    (check,) = unfinished.examine(operator.configuration)
    assert (check.verdict, told in check.seen) == ("warn", silent)


def test_one_that_needs_no_server_any_more_is_not_said_to_lack_one(
    operator: Operator, held: BootNote
) -> None:
    """What its guest wrote could not be merged, or it was started before that was done."""
    placed = boot_note.advanced(held, Phase.PLACED)
    ((level, reason, remedy),) = said(operator)
    assert (level, remedy) == ("WARNING", REMEDY)
    assert reason.endswith("it needs that no more, " + boot_remedies.UNMERGED)
    assert "filled, but what its guest wrote" in boot_progress.progress(placed).words
    (check,) = unfinished.examine(operator.configuration)
    assert (check.verdict, "--finish trial" in check.hint) == ("warn", True)
    assert "discard" not in check.hint, "that refuses one whose disks are placed"
    with host_lock(held.file.parent, held.file.stem) as mine:
        assert mine
        assert said(operator) == []


def on(monkeypatch: pytest.MonkeyPatch) -> None:
    """VirtualBox runs it."""
    monkeypatch.setattr(boot_machine, "is_on", lambda _: True)


def test_one_that_is_on_is_to_be_switched_off_before_it_is_finished(
    operator: Operator, held: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`boot --finish` refuses it: what served its disks is gone under its guest."""
    on(monkeypatch)
    does = f"VBoxManage controlvm {held.uuid} poweroff && vmbackup-admin boot --finish trial"
    assert said(operator) == [
        ("WARNING", SINCE + "nothing serves its disks, though it is on", f"on alpha: {does}")
    ]
    assert f"not served, though it is on: `{does}`" in operator.admin("status").stdout
    assert does in next(unfinished.examine(operator.configuration)).hint
    notifier.note_look(operator.site(), operator.contents, {}, {})
    ((_, _, remedy),) = said(elsewhere(operator))
    assert remedy == f"on alpha: {does}"


def test_one_that_waits_for_its_end_is_to_be_shut_down_first(
    operator: Operator, held: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch)
    boot_note.advanced(held, Phase.PLACED)
    ((_, reason, remedy),) = said(operator)
    assert reason.endswith("as it is on")
    assert remedy == "on alpha: shut it down, then: vmbackup-admin boot --finish trial"


@pytest.mark.parametrize(
    ("power", "steps"), [("off", ""), ("on", "VBoxManage controlvm {} poweroff && ")]
)
def test_of_one_whose_server_hangs_the_first_step_is_that_servers_end(
    operator: Operator, held: BootNote, monkeypatch: pytest.MonkeyPatch, power: str, steps: str
) -> None:
    monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
    monkeypatch.setattr(boot_machine, "is_on", lambda _: power == "on")
    own = ProcessIdentity.of(os.getpid())
    assert own
    held.progress.write({"pid": own.pid, "started": own.started, "born": own.born, "total": 2})
    os.utime(held.progress.path, times=(time.time() - 400,) * 2)
    does = f"on alpha: kill -KILL {own.pid} && {steps.format(held.uuid)}"
    does += "vmbackup-admin boot --finish trial"
    assert said(operator)[0][2] == does
    notifier.note_look(operator.site(), operator.contents, {}, {})
    assert said(elsewhere(operator))[0][2] == does
    monkeypatch.setattr(boot_progress, "is_stopped", lambda _: True)
    assert said(operator)[0][2] == f"on alpha: kill -CONT {own.pid}"


class TestDeletedInVirtualBox:
    @pytest.fixture
    def listed(self, operator: Operator, held: BootNote) -> Path:
        """The registry of the VirtualBox in which it was begun; still with it."""
        home = operator.folder / "VirtualBox"
        home.mkdir()
        boot_note.write(replace(held, home=str(home)))
        registry = home / "VirtualBox.xml"
        registry.write_text(self.registry(held.uuid), encoding="utf-8")
        return registry

    @staticmethod
    def registry(*uuids: str) -> str:
        entries = "".join(f'<MachineEntry uuid="{{{each}}}" src="x.vbox"/>' for each in uuids)
        return (
            '<?xml version="1.0"?><VirtualBox xmlns="http://www.virtualbox.org/">'
            f"<Global><MachineRegistry>{entries}</MachineRegistry></Global></VirtualBox>"
        )

    @pytest.fixture(autouse=True)
    def served(self, held: BootNote, monkeypatch: pytest.MonkeyPatch) -> None:
        """It gets on, as far as its server knows."""
        monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
        held.progress.write({"filled": 1, "total": 2})

    def test_it_is_told_everywhere_with_the_command_that_settles_it(
        self, operator: Operator, held: BootNote, listed: Path
    ) -> None:
        assert said(operator) == []
        listed.write_text(self.registry("another"), encoding="utf-8")
        gone = SINCE + boot_remedies.UNLISTED
        does = "vmbackup-admin boot --discard trial"
        assert said(operator) == [("WARNING", gone, f"on alpha: {does}")]
        assert does in operator.admin("status").stdout
        assert operator.json("status")["running_from_copies"][0]["unlisted"]
        (check,) = unfinished.examine(operator.configuration)
        assert (check.verdict, check.hint) == ("warn", does)
        assert "VirtualBox does not list it" in operator.lock("list").stdout
        notifier.note_look(operator.site(), operator.contents, {}, {})
        assert said(elsewhere(operator)) == [("WARNING", gone, f"on alpha: {does}")]
        assert not held.is_whole

    def test_one_whose_settings_are_left_can_be_taken_in_again(
        self, operator: Operator, held: BootNote, listed: Path
    ) -> None:
        listed.write_text(self.registry(), encoding="utf-8")
        left = held.folder / "trial.vbox"
        left.touch()
        ((_, reason, _),) = said(operator)
        assert f"(VBoxManage registervm {left} takes it in again)" in reason

    @pytest.mark.parametrize("why", ["unreadable", "away", "elsewhere", "placed", "making"])
    def test_where_that_is_not_known_it_counts_as_listed(
        self, operator: Operator, held: BootNote, listed: Path, why: str
    ) -> None:
        note = boot_note.read(held.file)
        assert note
        listed.write_text(self.registry(), encoding="utf-8")
        if why == "unreadable":
            listed.write_text("<torn", encoding="utf-8")
        elif why == "away":
            listed.unlink()
        elif why == "elsewhere":  # as an older release has noted it
            boot_note.write(replace(note, home=""))
        else:
            boot_note.advanced(note, Phase(why))
        assert [row for row in said(operator) if "does not list" in row[1]] == []

    def test_not_while_somebody_works_on_it_nor_when_that_has_ended(
        self, operator: Operator, held: BootNote, listed: Path
    ) -> None:
        listed.write_text(self.registry(), encoding="utf-8")
        with host_lock(held.file.parent, held.file.stem) as mine:
            assert mine
            assert said(operator) == []
        note = boot_note.read(held.file)
        assert note
        held.file.unlink()
        assert not boot_machine.is_unlisted(note)


class TestForLong:
    @pytest.fixture(autouse=True)
    def served(self, held: BootNote, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
        held.progress.write({"filled": 2, "total": 2})
        held.whole.write({"stamp": held.stamp, "index": held.index})

    def rows(self, operator: Operator, *options: str) -> list[tuple[str, str, str]]:
        done = operator.admin("check", "web", "--json", *options)
        (vm,) = json.loads(done.stdout)["vms"]
        return [
            (row["level"], row["reason"], row["remedy"])
            for row in [vm, *vm["also"]]
            if row["kind"] == "unsettled"
        ]

    def since(self, operator: Operator, hours: float) -> str:
        """It began to run so long ago."""
        when = timestamp(datetime.now(UTC) - timedelta(hours=hours))
        hold = replace(operator.record("web").holds[0], since=when)
        operator.set("web", holds=(hold,))
        return when

    def test_one_that_is_never_shut_down_is_told_when_a_backup_would_be_overdue(
        self, operator: Operator
    ) -> None:
        self.since(operator, 25)
        assert self.rows(operator) == []
        when = self.since(operator, 27)
        ((level, reason, remedy),) = self.rows(operator)
        assert level == "WARNING"
        assert f"since {when}, and is in no backup before it was shut down" in reason
        assert remedy == "on alpha: shut it down, then: vmbackup-admin boot --finish trial"
        assert self.rows(operator, "--max-age", "28h") == []

    def test_its_own_policy_counts(self, operator: Operator) -> None:
        self.since(operator, 27)
        operator.settings = {'policy."trial"': {"max_age_hours": 28}}
        operator.configure()
        assert self.rows(operator) == []
        operator.settings = {'policy."trial"': {"backup": "never"}}
        operator.configure()
        self.since(operator, 9999)
        assert self.rows(operator) == []

    def test_a_clock_that_was_ahead_alarms_nobody(self, operator: Operator) -> None:
        self.since(operator, -50)
        assert self.rows(operator) == []
