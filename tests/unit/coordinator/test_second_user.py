"""A monitoring user, who may read the database and nothing else, runs the commands that read."""

import contextlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.state.states import State
from tests.unit.coordinator.conftest import Operator, copy

NOBODY = 65534
STAMP = "20261122T203800Z-17"


@pytest.fixture
def shared(probe_in_this_process: None) -> Iterator[Operator]:
    """An operator at a place that any user can reach; what there is belongs to root."""
    if os.geteuid():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("becoming another user needs root")
    folder = Path(tempfile.mkdtemp(prefix="vmbackup-second-user."))
    folder.chmod(0o755)
    try:
        operator = Operator(folder)
        operator.nas.mkdir(mode=0o755)
        operator.configure()
        operator.create()
        operator.add_vms("web")
        operator.set("web", status=State.CLEAN, last_copy=copy(STAMP))
        identity = operator.database().identity
        seen = VmsSeen(*[[operator.site().database.head().contents.vms["web"].uuid]] * 3)
        write_look(operator.vmstate / "node", identity, SystemClock(), seen, {})
        operator.admin("status")  # what it imports late is not there for another user, in tests
        operator.admin("check")
        operator.lock("list")
        yield operator
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def test_without_the_right_to_read_nothing_is_known_and_never_all_right(shared: Operator) -> None:
    with somebody_else():
        result = shared.admin("check")
    assert (result.exit_code, "VMBACKUP UNKNOWN" in result.stdout) == (3, True)
    assert "Permission denied" in result.stdout


def test_with_it_check_status_and_lock_list_work_and_leave_nothing(shared: Operator) -> None:
    shared.site().database.keep_readable("all")
    before = {path: path.lstat() for path in shared.nas.rglob("*")}
    with somebody_else():
        check, status = shared.admin("check"), shared.admin("status")
        locks, document = shared.lock("list"), shared.json("status")
    assert (check.exit_code, "1 VM: 1 copied" in check.stdout) == (0, True), check.output
    assert (status.exit_code, "CLEAN" in status.stdout) == (0, True), status.output
    assert locks.exit_code == 0, locks.output
    assert document["vms"][0]["verdict"]["kind"] == "copied"
    after = {path: path.lstat() for path in shared.nas.rglob("*")}
    assert {path: (stat_.st_mode, stat_.st_mtime_ns) for path, stat_ in after.items()} == {
        path: (stat_.st_mode, stat_.st_mtime_ns) for path, stat_ in before.items()
    }


def test_who_may_read_may_change_nothing(shared: Operator) -> None:
    shared.site().database.keep_readable("all")
    with somebody_else():
        result = shared.admin("forget", "web")
    assert result.exit_code != 0, result.output
    assert "web" in shared.site().database.head().contents.vms
    assert not [path for path in shared.nas.rglob("*") if path.lstat().st_mode & stat.S_IWOTH]


@pytest.mark.broad
@pytest.mark.parametrize("place", ["state", "closed/state"])
def test_doctor_says_whose_host_it_is_and_examines_nothing_else(
    shared: Operator, place: str
) -> None:
    """Else each check fails for want of a right, and says what would be wrong for the owner."""
    owner = pwd.getpwall()[1]
    state = shared.folder / place
    shared.settings["host"] = {"node": "alpha", "state_directory": str(state)}
    shared.configure()
    state.mkdir(parents=True, mode=0o700)
    above = state.parent if state.parent != shared.folder else state
    for directory in (state, above):
        directory.chmod(0o700)
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    for user in (contextlib.nullcontext(), somebody_else()):
        with user:
            result = shared.admin("doctor")
        lines = result.stdout.splitlines()
        assert (result.exit_code, sum(line.startswith("FAIL") for line in lines)) == (1, 1), lines
        assert lines[-2] == f"      -> sudo -u {owner.pw_name} vmbackup-admin doctor", lines
        assert owner.pw_name in lines[-3]
    os.chown(state, 0, 0)
    os.chown(above, 0, 0)
    assert "sudo" not in shared.admin("doctor").stdout


@pytest.mark.broad
def test_doctor_does_not_point_at_itself(shared: Operator) -> None:
    shared.nas.chmod(0o755)
    shared.admin("doctor")
    shared.folder.joinpath("state-alpha").chmod(0o777)
    shared.vmstate.chmod(0o700)
    with somebody_else():
        said = shared.admin("doctor").stdout
    assert "Permission denied" in said
    assert "vmbackup-admin doctor" not in said
