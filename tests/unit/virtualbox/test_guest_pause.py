"""The process that pauses a VM and resumes it, beside a VBoxManage that is a short script."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import pytest

from shared.host.processes import SubprocessRunner
from shared.virtualbox import guest_pause, pause_guard
from shared.virtualbox.export_errors import VmBusyError
from shared.virtualbox.guest_pause import GuestPause, NotPausedError, resume_left
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.waiting import wait_for

UUID = "aaaaaaaa-0000-0000-0000-000000000000"
#: The state is a file, and so is the number of its changes; `hook-VERB` is run before a verb,
#: and `after-VERB` after it.
SCRIPT = """#!/bin/sh
cd '{folder}'
verb=$3; [ "$1" = showvminfo ] && verb=look
echo $verb >> calls
change() {{ echo $1 > state; echo $(($(cat changes) + 1)) > changes; }}
[ -e hook-$verb ] && . ./hook-$verb
state=$(cat state)
case $verb in
  look) printf 'name="x"\\nUUID="{uuid}"\\nVMState="%s"\\n' "$state"
    printf 'VMStateChangeTime="2026-11-30T12:00:%02d.000000000"\\n' "$(cat changes)"
    for each in $(cat snapshots 2>/dev/null); do echo "SnapshotUUID-$each=\\"$each\\""; done;;
  pause) [ "$state" = running ] || {{ echo Already paused >&2; exit 1; }}; change paused;;
  resume) [ "$state" = paused ] || {{ echo It is not paused >&2; exit 1; }}; change running;;
esac
[ ! -e after-$verb ] || . ./after-$verb
"""


class Vm:
    """A VM that is a file, and its VBoxManage."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.note = folder, folder / "paused"
        program = folder / "VBoxManage"
        program.write_text(SCRIPT.format(folder=folder, uuid=UUID))
        program.chmod(0o755)
        (folder / "changes").write_text("0")
        self.become("running")
        self.vboxmanage = VBoxManage(str(program), SubprocessRunner(), 10)

    @property
    def state(self) -> str:
        return (self.folder / "state").read_text().strip()

    def become(self, state: str) -> None:
        (self.folder / "state").write_text(state)

    def hook(self, verb: str, action: str) -> None:
        (self.folder / f"hook-{verb}").write_text(action)

    def after(self, verb: str, action: str) -> None:
        (self.folder / f"after-{verb}").write_text(action)

    def pause(self, seconds: float = 20) -> GuestPause:
        return GuestPause(self.vboxmanage, UUID, seconds, self.note)


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    """One that runs."""
    return Vm(tmp_path)


@pytest.mark.broad
def test_it_is_paused_within_and_goes_on_afterwards(vm: Vm) -> None:
    pause = vm.pause()
    with pause.standing_still():
        assert vm.state == "paused"
        assert vm.note.read_text() == "2026-11-30T12:00:01.000000000\n"
    assert (vm.state, vm.note.exists()) == ("running", False)
    assert pause.lasted == 1, "by VirtualBox's clock"


@pytest.mark.broad
def test_for_how_long_it_was_paused_may_stay_unknown(vm: Vm) -> None:
    vm.after("resume", "echo exit 1 > hook-look")
    pause = vm.pause()
    with pause.standing_still():
        pass
    assert (vm.state, pause.lasted) == ("running", 0)


@pytest.mark.broad
def test_it_goes_on_whatever_is_raised_meanwhile(vm: Vm) -> None:
    with pytest.raises(ZeroDivisionError), vm.pause().standing_still():
        raise ZeroDivisionError
    assert (vm.state, vm.note.exists()) == ("running", False)


@pytest.mark.broad
@pytest.mark.parametrize(
    ("meanwhile", "left"),
    [
        (["running"], "running"),
        (["poweroff"], "poweroff"),
        (["running", "paused"], "paused"),
    ],
)
def test_what_somebody_else_makes_of_it_stays_and_is_noticed(
    vm: Vm, meanwhile: list[str], left: str
) -> None:
    def change() -> None:
        for number, state in enumerate(meanwhile, 2):
            vm.become(state)
            (vm.folder / "changes").write_text(str(number))

    with pytest.raises(NotPausedError, match="switched off"), vm.pause().standing_still():
        change()
    assert (vm.state, vm.note.exists()) == (left, False)


@pytest.mark.broad
def test_it_goes_on_when_the_time_is_over_while_nobody_says_a_word(vm: Vm) -> None:
    def wait() -> None:
        wait_for(lambda: not vm.note.exists(), "it to go on")
        assert vm.state == "running"

    pause = vm.pause(seconds=1)
    with pytest.raises(NotPausedError, match="pause_seconds"), pause.standing_still():
        wait()


def test_one_that_is_paused_already_or_off_is_left_so(vm: Vm) -> None:
    vm.become("paused")
    with pytest.raises(NotPausedError, match="it is paused"), vm.pause().standing_still():
        pytest.fail("it was not paused by this program")
    assert (vm.state, vm.note.exists()) == ("paused", False)


@pytest.mark.broad
@pytest.mark.parametrize("failure", ["exit 1", "kill -9 $$"])
def test_one_that_is_paused_although_that_failed_goes_on(vm: Vm, failure: str) -> None:
    vm.after("pause", failure)
    with pytest.raises(NotPausedError, match="could not be paused"), vm.pause().standing_still():
        pytest.fail("VirtualBox said that it was not")
    assert (vm.state, vm.note.exists()) == ("running", False)


def test_of_one_that_may_be_paused_later_the_note_stays(vm: Vm) -> None:
    vm.hook("pause", "kill -9 $$")
    with pytest.raises(NotPausedError, match="ended by signal 9"), vm.pause().standing_still():
        pytest.fail("nobody knows whether it was")
    assert (vm.state, vm.note.exists()) == ("running", True)


@pytest.mark.broad
def test_one_that_its_user_pauses_at_that_moment_stays_so(vm: Vm) -> None:
    vm.hook("pause", "change paused")
    with pytest.raises(NotPausedError, match="Already paused"), vm.pause().standing_still():
        pytest.fail("it was not paused by this program")
    assert (vm.state, vm.note.exists()) == ("paused", False)


@pytest.mark.broad
def test_one_that_its_user_resumes_at_once_was_not_paused(vm: Vm) -> None:
    vm.after("pause", "echo running > state")
    with pytest.raises(NotPausedError, match="resumed at once"), vm.pause().standing_still():
        pytest.fail("it was resumed")
    assert vm.state == "running"


@pytest.mark.broad
def test_it_goes_on_though_virtualbox_refuses_that_first(vm: Vm) -> None:
    with vm.pause().standing_still():
        vm.hook("resume", "[ -e failed ] || { touch failed; exit 1; }")
    assert ((vm.folder / "failed").exists(), vm.state, vm.note.exists()) == (True, "running", False)


@pytest.mark.broad
def test_without_an_answer_nothing_is_proven_and_it_goes_on_all_the_same(vm: Vm) -> None:
    with pytest.raises(NotPausedError, match="resumed"), vm.pause().standing_still():
        vm.hook("look", "[ -e failed ] || { touch failed; exit 1; }")
    assert ((vm.folder / "failed").exists(), vm.state, vm.note.exists()) == (True, "running", False)


@pytest.mark.broad
def test_a_state_that_passes_is_no_end_of_the_pause(vm: Vm) -> None:
    """Its user takes a snapshot, say: it is paused once more after that, and nobody knows."""

    def change() -> None:
        vm.become("onlinesnapshotting")
        vm.hook("look", "[ -e seen ] && rm hook-look && change paused; touch seen")

    with pytest.raises(NotPausedError, match="switched off"), vm.pause().standing_still():
        change()
    assert (vm.state, vm.note.exists()) == ("running", False)


@pytest.mark.broad
@pytest.mark.parametrize("snapshots", ["", "1 2"])
def test_a_snapshot_that_nobody_saw_begin_or_end_is_no_wish_of_its_user_to_pause_it(
    vm: Vm, snapshots: str
) -> None:
    """VirtualBox pauses it anew after a snapshot was taken, or deleted: it would stay so."""

    def come_and_go() -> None:
        (vm.folder / "snapshots").write_text(snapshots)
        (vm.folder / "changes").write_text("7")

    (vm.folder / "snapshots").write_text("1")
    with pytest.raises(NotPausedError, match="switched off"), vm.pause().standing_still():
        come_and_go()
    assert (vm.state, vm.note.exists()) == ("running", False)


@pytest.mark.broad
def test_it_goes_on_though_no_vboxmanage_can_be_started_first(vm: Vm) -> None:
    """While VirtualBox is upgraded, say, or the machine has no memory left."""
    program, away = Path(vm.vboxmanage.program), vm.folder / "away"
    back = threading.Timer(1, lambda: away.rename(program))
    # if it is back just between a look and what resumes the VM, nothing is proven
    with suppress(NotPausedError), vm.pause().standing_still():
        program.rename(away)
        back.start()
    back.join()
    assert (vm.state, vm.note.exists()) == ("running", False)


HANGS = "touch hangs-$$; while [ ! -e go ]; do sleep 0.05; done; rm hangs-$$"


@pytest.fixture
def hanging(vm: Vm) -> Iterator[Callable[[], int]]:
    """How many VBoxManages hang. They go on afterwards: none was ended."""

    def number() -> int:
        return len(list(vm.folder.glob("hangs-*")))

    yield number
    (vm.folder / "go").touch()
    wait_for(lambda: number() == 0, "them to end")


@pytest.mark.broad
def test_answers_that_are_late_are_not_waited_for(vm: Vm, hanging: Callable[[], int]) -> None:
    for verb in ("look", "pause", "resume"):
        vm.after(verb, f"[ -e once-$verb ] || {{ touch once-$verb; {HANGS}; }}")
    with vm.pause().standing_still():
        assert vm.state == "paused"
    assert (vm.state, vm.note.exists(), hanging()) == ("running", False, 3)


@pytest.mark.broad
def test_it_goes_on_in_time_though_nobody_knows_whether_it_is_paused(
    vm: Vm, hanging: Callable[[], int]
) -> None:
    vm.after("look", f"[ $state = running ] || [ $(ls hangs-* | wc -l) = 2 ] || {{ {HANGS}; }}")
    with pytest.raises(NotPausedError, match="pause_seconds"), vm.pause(1).standing_still():
        pytest.fail("nobody knows it")
    assert (vm.state, vm.note.exists(), hanging()) == ("running", False, 2)


def test_nothing_stays_open_where_nothing_can_be_started(vm: Vm) -> None:
    pause = GuestPause(vm.vboxmanage, UUID, "\0", vm.note)  # type: ignore[arg-type]
    before = psutil.Process().num_fds()
    with pytest.raises(ValueError, match="null"), pause.standing_still():
        pytest.fail("nobody would resume it")
    assert psutil.Process().num_fds() == before


@pytest.mark.broad
def test_where_no_note_can_be_written_nothing_is_paused(vm: Vm) -> None:
    vm.note = vm.folder / "gone" / "paused"
    with (
        pytest.raises(NotPausedError, match="no note can be written: No such"),
        vm.pause().standing_still(),
    ):
        pytest.fail("nobody would know of it")
    assert "pause" not in (vm.folder / "calls").read_text()


def test_where_the_moment_cannot_be_noted_the_note_stays_as_it_is(tmp_path: Path) -> None:
    """By its time the pause is known, if what resumes the VM is killed."""
    note = tmp_path / "paused"
    pause_guard.write(str(note), "")
    os.utime(note, (1, 1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            pause_guard.write(str(note), OURS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (note.read_text(), note.stat().st_mtime) == ("", 1)


@pytest.mark.broad
def test_signals_that_end_programs_do_not_end_what_resumes_it(vm: Vm) -> None:
    vm.hook("pause", "for each in TERM INT HUP; do kill -$each $PPID; done")
    with vm.pause().standing_still():
        assert vm.state == "paused"
    assert vm.state == "running"


@pytest.mark.broad
def test_it_goes_on_when_its_worker_is_killed(vm: Vm) -> None:
    code = (
        "import os, signal; from pathlib import Path; from tests.unit.virtualbox.test_guest_pause "
        f"import Vm; vm = Vm(Path({str(vm.folder)!r}))\n"
        "with vm.pause().standing_still(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not vm.note.exists() and vm.state == "running", "it to go on")


def left(vm: Vm, note: str | None, state: str = "paused") -> str:
    """What becomes of a VM whose worker and guard were killed."""
    vm.become(state)
    if note is not None:
        vm.note.write_text(note)
    resume_left(vm.vboxmanage, UUID, vm.note)
    return vm.state


OURS, THEIRS = "2026-11-30T12:00:00.123000000", "2026-11-30T11:59:00.000000000"


@pytest.mark.parametrize(
    ("note", "state", "becomes"),
    [
        (OURS, "paused", "running"),
        (f"{OURS}\n", "paused", "running"),
        (THEIRS, "paused", "paused"),
        (f"{THEIRS}\n", "paused", "paused"),
        (f'{THEIRS}\nSnapshotUUID="gone"\nCurrentSnapshotUUID="gone"\n', "paused", "running"),
        (None, "paused", "paused"),
        (OURS, "poweroff", "poweroff"),
        (OURS, "running", "running"),
    ],
)
def test_what_was_left_paused_goes_on_by_the_note_only(
    vm: Vm, note: str | None, state: str, becomes: str
) -> None:
    assert left(vm, note, state) == becomes


@pytest.mark.parametrize(("asked", "becomes"), [(-60, "running"), (60, "paused")])
def test_of_a_pause_of_which_no_moment_is_known_the_time_decides(
    vm: Vm, asked: float, becomes: str
) -> None:
    vm.note.write_text("")
    moment = guest_pause.epoch_seconds("2026-11-30T12:00:00") + asked
    os.utime(vm.note, (moment, moment))
    assert left(vm, None) == becomes


@pytest.mark.parametrize(
    ("note", "minutes", "state", "waits"),
    [
        ("", 1, "running", True),
        ("", 11, "running", False),
        ("", 1, "poweroff", False),
        (OURS, 1, "running", False),
    ],
)
def test_a_pause_that_may_still_come_is_waited_for(
    vm: Vm, note: str, minutes: int, state: str, waits: bool
) -> None:
    """It was asked for, and nobody has seen it: its note must stay."""
    vm.note.write_text(note)
    asked = time.time() - 60 * minutes
    os.utime(vm.note, (asked, asked))
    vm.become(state)
    with pytest.raises(VmBusyError, match="may still pause") if waits else nullcontext():
        resume_left(vm.vboxmanage, UUID, vm.note)


def test_moments_that_are_none_are_long_ago() -> None:
    each: Callable[[str], float] = guest_pause.epoch_seconds
    assert each("") == each("yesterday") == 0
