"""A NAS without one byte left is cleared by the commands that the manual names.

On file systems of its own that are really full: memory, ext4 and btrfs.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.commands import doctor as doctor_command
from coordinator.doctor.result import FULL, Check, once
from shared.command_line import Invocation
from shared.host.errors import ExitCode
from shared.state.records import Power
from shared.state.states import State
from shared.state.store import reserve
from tests.ordinary.mounts import KINDS, Mounts, possible
from tests.support.copies import put_copy
from tests.support.drawing import drawn
from tests.support.packages import require
from tests.unit.coordinator.conftest import WHEN, Operator, copy, fall_silent

pytestmark = pytest.mark.slow

OLD, NEW = "20261122T203800Z-17", "20261123T203800Z-18"


@pytest.fixture(params=["tmpfs", *drawn(["ext4", "btrfs"])])
def full(
    request: pytest.FixtureRequest, tmp_path: Path, probe_in_this_process: None
) -> Iterator[Operator]:
    """An operator whose NAS others have filled to the last byte; its VM `web` has two copies."""
    kind = request.param
    if not possible():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a file system needs root")
    if kind != "tmpfs":
        require(KINDS[kind][0], {"ext4": "e2fsprogs", "btrfs": "btrfs-progs"}[kind])
    mounts, operator = Mounts(), Operator(tmp_path)
    operator.nas.mkdir()
    try:
        if kind == "tmpfs":
            mounts.memory(operator.nas, 24 << 20)
        else:
            mounts.file_system(kind, tmp_path / "image", operator.nas)
        operator.configure()
        operator.create()
        written = os.urandom(reserve.wanted(operator.vmstate))  # not only so long, as for others
        (operator.vmstate / reserve.NAME).write_bytes(written)
        operator.add_vms("web")
        operator.set("web", status=State.CLEAN, last_copy=copy(NEW))
        for stamp in (OLD, NEW):
            put_copy(operator.nas / "web", stamp)
        fill(operator.nas)
        yield operator
    finally:
        mounts.end()


def fill(nas: Path) -> None:
    """Writes until there is no room for one more file with one byte."""
    (nas / "others").mkdir(exist_ok=True)
    for size in (1 << 20, 1 << 12, 1, 1):
        for number in range(100_000):
            try:
                with (nas / "others" / f"{size}-{number}-{os.urandom(4).hex()}").open("wb") as file:
                    file.write(os.urandom(size))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                break
        os.sync()


def make_room(nas: Path) -> None:
    """Others remove what they had written."""
    for file in (nas / "others").iterdir():
        file.unlink()
    os.sync()


def kept(operator: Operator) -> int:
    return reserve.present(operator.vmstate)


@pytest.mark.parametrize(
    "command",
    [
        ("prune", "web"),
        ("remove", "web", OLD, "--yes"),
        ("archive", "web"),
        ("pin", "web", OLD),
        ("forget", "web"),
    ],
    ids=lambda command: command[0],
)
def test_each_command_that_clears_it_works(full: Operator, command: tuple[str, ...]) -> None:
    full.settings["backup"] = {"keep_last": 1}
    full.configure()
    result = full.admin(*command)
    assert result.exit_code == 0, result.output
    assert kept(full) == 0
    if command[0] in ("prune", "remove"):
        assert not (full.nas / "web" / f"{OLD}.ova").exists()
    if command[0] == "archive":
        assert full.record("web").status == State.ARCHIVED
        assert (full.nas / "archive" / "web" / f"{NEW}.ova").exists()
    if command[0] == "pin":
        assert full.admin("unpin", "web", OLD).exit_code == 0, "a command more has room, too"
    assert "no reserve" in full.admin("status").stderr
    make_room(full.nas)
    full.database().keep_reserve(0)
    assert kept(full)
    assert "no reserve" not in full.admin("status").stderr


def test_a_worker_does_not_give_it_up(full: Operator) -> None:
    before = kept(full)
    with pytest.raises(Exception, match="No space left"):
        full.set("web", failures=1)
    assert (kept(full), before > 0) == (before, True)


def at_once(*commands: tuple[Operator, tuple[str, ...]]) -> list[tuple[bytes, int]]:
    """Runs commands of hosts side by side, each in a process of its own: output and exit code."""
    program = [sys.executable, "-m", "coordinator.admin", "--config"]
    running = [
        subprocess.Popen(
            [*program, str(host.config), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for host, words in commands
    ]
    return [(process.communicate(timeout=120)[0], process.returncode) for process in running]


def test_two_processes_at_once(full: Operator) -> None:
    ended = at_once(
        *(
            (full, words)
            for words in (("pin", "web", OLD), ("statedb", "check"), ("pin", "web", NEW))
        )
    )
    codes = [ended[0][1], ended[2][1]]
    assert 0 in codes, ended
    assert set(codes) <= {ExitCode.DONE, ExitCode.LOCKED}, ended
    assert kept(full) == 0


@pytest.mark.parametrize("full", ["btrfs"], indirect=True)
def test_two_hosts_clear_it_at_once(full: Operator) -> None:
    """Each its own VM. The reserve is there once, for whoever comes first; the other has of it."""
    beta = Operator(full.folder, "beta")
    beta.configure()
    make_room(full.nas)
    beta.add_vms("mail")
    beta.set("mail", status=State.CLEAN, last_copy=copy(NEW))
    for stamp in (OLD, NEW):
        put_copy(full.nas / "mail", stamp, vm="mail", uuid=beta.record("mail").uuid)
    fill(full.nas)
    for both in (
        ((full, ("remove", "web", OLD, "--yes")), (beta, ("pin", "mail", NEW))),
        ((full, ("archive", "web")), (beta, ("remove", "mail", OLD, "--yes"))),
    ):
        ended = at_once(*both)
        assert [code for _, code in ended] == [ExitCode.DONE] * 2, ended
    assert kept(full) == 0
    assert [path.stem for path in full.nas.glob("*/*.ova")] == [NEW]
    assert [path.stem for path in full.nas.glob("archive/web/*.ova")] == [NEW]
    make_room(full.nas)
    full.database().keep_reserve(0)
    assert kept(full)
    assert full.admin("statedb", "check").exit_code == ExitCode.DONE


def test_killed_after_giving_it_up_the_next_command_finds_the_room_or_says_what_to_do(
    full: Operator,
) -> None:
    reserve.give_up(full.vmstate)
    os.sync()
    assert full.admin("pin", "web", OLD).exit_code == 0
    fill(full.nas)
    result = full.admin("unpin", "web", OLD)
    assert (result.exit_code, "by hand" in result.stderr) == (ExitCode.NAS, True), result.output
    make_room(full.nas)
    assert full.admin("unpin", "web", OLD).exit_code == 0


def test_status_names_who_waits_and_doctor_one_cause(full: Operator) -> None:
    make_room(full.nas)
    full.set("web", status=State.BACKUP_NECESSARY)
    fill(full.nas)
    assert "no backup begins" in full.admin("status").stderr
    assert "Waiting for room: web" in full.admin("status").stderr
    checks = [*doctor_command.examine(Invocation("vmbackup-admin", config=str(full.config)))]
    told = [check.name for check in checks if check.cause == FULL]
    assert told == ["NAS: room"]
    assert not [check for check in checks if "No space left" in check.seen]
    assert {check.name: check.verdict for check in checks}["database: reserve"] == "ok"


def prepared(full: Operator, *commands: tuple[str, ...], **changes: Any) -> None:
    """What has happened before the NAS was full."""
    make_room(full.nas)
    for command in commands:
        assert full.admin(*command).exit_code == 0, command
    for key, values in changes.items():
        full.set(key, **values)
    fill(full.nas)


def test_an_archived_vm_is_taken_back(full: Operator) -> None:
    prepared(full, ("archive", "web"))
    result = full.admin("activate", "web")
    assert result.exit_code == 0, result.output
    assert (full.nas / "web" / f"{NEW}.ova").exists()
    assert (full.record("web").status, full.record("web").moving) != (State.ARCHIVED, "activate")
    assert kept(full) == 0


def test_what_a_host_left_that_is_gone_is_settled(full: Operator) -> None:
    make_room(full.nas)
    full.add_vms("mail", node="beta")
    saved = Power("savestate", "running", 1, since=WHEN, node="beta")
    prepared(full, mail={"power": saved, "leftovers": True})
    result = full.lock("recover", "beta")
    assert result.exit_code == 0, result.output
    record = full.record("mail")
    assert (record.power, record.power_left, record.leftovers) == (None, saved, False)
    assert kept(full) == 0


def test_the_lock_of_a_dead_worker_is_broken(full: Operator) -> None:
    make_room(full.nas)
    session = full.session().__enter__()
    full.claim(session, "web")
    fall_silent(session)
    fill(full.nas)
    result = full.lock("break", "web")
    assert result.exit_code == 0, result.output
    assert full.record("web").claim is None
    assert kept(full) == 0


def test_a_lost_database_is_made_anew_in_the_room_of_its_reserve(full: Operator) -> None:
    for path in (full.vmstate / "gen").iterdir():
        os.truncate(path, 40)
    result = full.admin("statedb", "rebuild", "--yes")
    assert result.exit_code == 0, result.output
    assert full.record("web").last_copy is not None
    assert [copy["stamp"] for copy in full.json("copies", "web")["copies"]] == [OLD, NEW]


def test_the_first_check_that_finds_no_room_tells_it() -> None:
    checks = [Check("a", "ok", ""), Check("b", "fail", "", cause=FULL), Check("c", "fail", "")]
    assert list(once([*checks, Check("d", "fail", "", cause=FULL)])) == checks
