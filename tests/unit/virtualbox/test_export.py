"""Exports: how what VBoxManage printed is told, and how a program in its place is watched and
stopped.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.export.exporter import RunningExport, VBoxManageExporter
from shared.host.errors import ExitCode, VBoxManageError
from shared.host.processes import Completed, SubprocessRunner
from shared.virtualbox.export_checks import DiskUse, disk_use
from shared.virtualbox.export_errors import (
    ExportAbandonedError,
    ExportCanceledError,
    ExportError,
    ExportTargetError,
    UnreachedError,
    VmBusyError,
    VmRunsError,
    export_problem,
)
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import Image
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.waiting import wait_for
from tests.unit.virtualbox.fakes import CHILD, DISK, A, FakeRunner

FAILED = (
    "0%...10%...VBOX_E_FILE_ERROR\nVBoxManage: error: Appliance write failed\nVBoxManage: error: "
)


@pytest.mark.parametrize(
    ("printed", "error", "said"),
    [
        (
            "Could not create the exported medium 'x-disk001.vmdk' (VERR_CANCELLED)",
            ExportCanceledError,
            "canceled",
        ),
        (
            "VMDK: cannot write compressed data block in './a-disk001.vmdk' (VERR_DISK_FULL)",
            ExportTargetError,
            "full",
        ),
        (
            "Failed to open '/nas/ex.ova' for writing (VERR_ALREADY_EXISTS)",
            ExportTargetError,
            "exists",
        ),
        (
            "Failed to open '/nas/no/ex.ova' for writing (VERR_FILE_NOT_FOUND)",
            ExportTargetError,
            "directory",
        ),
        (
            "Failed to open '/nas/a.ova' for writing (VERR_WRITE_PROTECT)",
            ExportTargetError,
            "cannot be written",
        ),
        ("Medium '/vms/x.vdi' is locked for writing by another task", VmRunsError, "runs"),
        (
            "Medium '/vms/x.vdi' is locked for reading by another task",
            VmBusyError,
            "works on its disks",
        ),
        (
            (
                "Code VBOX_E_INVALID_OBJECT_STATE (0x80BB0007) - Current object state prohibits "
                "operation"
            ),
            VmRunsError,
            "runs",
        ),
        (
            (
                "Could not open the medium '/x.vdi'.\nVBoxManage: error: VD: error "
                "VERR_FILE_NOT_FOUND opening"
            ),
            ExportError,
            "missing",
        ),
        (
            "VDI: invalid pre-header in '/vms/x.vdi' (VERR_VD_VDI_INVALID_HEADER).",
            ExportError,
            "damaged",
        ),
        ("The object functionality is limited", ExportError, "inaccessible"),
        ("Could not find a registered machine with UUID {0}", ExportError, "not registered"),
        ("Failed to create the VirtualBox object!", UnreachedError, "could not be reached"),
        (
            "Code NS_ERROR_ABORT (0x80004004) - Operation aborted (extended info not available)",
            ExportError,
            "VBoxSVC ended",
        ),
        ("something new", ExportError, "something new"),
    ],
)
def test_failures_are_told_apart(printed: str, error: type[ExportError], said: str) -> None:
    problem = export_problem(Completed((), 1, "", FAILED + printed + "\n"))
    assert type(problem) is error
    assert said in problem.message
    assert problem.exit_code is (
        ExitCode.NAS if error is ExportTargetError else ExitCode.VBOXMANAGE
    )


def test_encrypted_disk_asks_for_its_password_on_stdout() -> None:
    stdout = (
        "Enter the passwords for the following identifiers to export the "
        "apppliance:\nPassword ID id1:\n"
    )
    problem = export_problem(
        Completed(
            (),
            1,
            stdout,
            "VBoxManage: error: Failed to retrieve echo setting (VERR_INVALID_FUNCTION)\n",
        )
    )
    assert problem is not None
    assert "encrypted" in problem.message
    assert "encryptmedium" in problem.hint


def test_success_needs_a_clean_status_and_a_clean_stderr() -> None:
    assert (
        export_problem(Completed((), 0, "Successfully exported 1 machine(s).\n", "0%...100%\n"))
        is None
    )
    assert export_problem(Completed((), 0, "", "0%...VBoxManage: error: late\n")) is not None
    assert export_problem(Completed((), 1, "Successfully exported 1 machine(s).\n", "")) is not None


@pytest.mark.parametrize("status", [-9, -1, 137, 129])
def test_killed_vboxmanage_may_leave_an_export_running(status: int) -> None:
    problem = export_problem(Completed((), status, "", "0%...10%..."))
    assert isinstance(problem, ExportAbandonedError)
    assert "signal" in problem.message


#: A program in the place of VBoxManage; `body` is what it does after it was asked for what it
#: should have been asked for.
PROGRAM = """#!{python}
import os, signal, sys, time
target = sys.argv[-1].removeprefix("--output=")
assert sys.argv[1:-1] == ["export", "{uuid}", "--ovf20", "--manifest"], sys.argv
assert os.environ["LC_ALL"] == "C.UTF-8" and os.environ["VBOX_USER_HOME"] == "/x"
assert sys.stdin.read() == "" and os.getsid(0) == os.getpid()
def canceled(*_):
    os.unlink(target)
    print("CANCELED\\nVBoxManage: error: (VERR_CANCELLED)", file=sys.stderr)
    sys.exit(1)
{body}
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], RunningExport]:
    def start(body: str) -> RunningExport:
        program = tmp_path / "VBoxManage"
        program.write_text(PROGRAM.format(python=sys.executable, uuid=A, body=body))
        program.chmod(0o755)
        box = VBoxManage(str(program), SubprocessRunner(), 5, {"VBOX_USER_HOME": "/x"})
        return VBoxManageExporter(box).start(Machine(A, "web01", "/x.vbox"), tmp_path / "x.ova")

    return start


WRITE = (
    'open(target, "wb").write(b"x" * 1000); sys.stderr.write("0%...10%...40%"); '
    "sys.stderr.flush()\n"
)


def test_export_is_watched_to_its_end(
    start: Callable[[str], RunningExport], tmp_path: Path
) -> None:
    export = start(
        WRITE
        + (
            f'while not os.path.exists("{tmp_path}/go"): time.sleep(0.01)\nprint("...100%", '
            f"file=sys.stderr)"
        )
    )
    assert export.identity is not None
    assert export.identity.is_alive()
    wait_for(lambda: (export.progress(), export.size()) == (40, 1000))
    assert not export.poll()
    (tmp_path / "go").touch()
    wait_for(export.poll)
    export.result()
    assert export.progress() == 100


def test_nothing_is_known_before_it_says_anything(start: Callable[[str], RunningExport]) -> None:
    export = start("time.sleep(30)")
    assert (export.progress(), export.size(), export.poll()) == (0, 0, False)
    assert export.cancel(10)


def test_cancelling_asks_with_int_first(start: Callable[[str], RunningExport]) -> None:
    export = start("signal.signal(signal.SIGINT, canceled)\n" + WRITE + "time.sleep(30)")
    wait_for(lambda: export.progress() == 40)
    assert export.cancel(20)
    with pytest.raises(ExportCanceledError):
        export.result()
    assert export.size() == 0


@pytest.mark.broad
def test_cancelling_asks_again_with_term(start: Callable[[str], RunningExport]) -> None:
    ignore = (
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, canceled)\n"
    )
    export = start(ignore + WRITE + "time.sleep(30)")
    wait_for(lambda: export.progress() == 40)
    assert export.cancel(1)
    with pytest.raises(ExportCanceledError):
        export.result()


@pytest.mark.broad
def test_cancelling_never_kills(start: Callable[[str], RunningExport]) -> None:
    ignore = (
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, "
        "signal.SIG_IGN)\n"
    )
    export = start(ignore + WRITE + "time.sleep(30)")
    wait_for(lambda: export.progress() == 40)
    began = time.monotonic()
    assert not export.cancel(0.4)
    assert time.monotonic() - began < 5
    assert not export.poll()
    assert export.identity is not None
    os.kill(export.identity.pid, signal.SIGKILL)
    wait_for(export.poll)
    with pytest.raises(ExportAbandonedError):
        export.result()


@pytest.mark.broad
def test_talkative_vboxmanage_is_never_held_up_and_its_last_words_are_kept(
    start: Callable[[str], RunningExport],
) -> None:
    export = start(
        'sys.stdout.write("x" * 2**22); sys.stderr.write("y" * 2**22); '
        'sys.stderr.write("\\nVBoxManage: error: last words\\n"); sys.exit(1)'
    )
    wait_for(export.poll)
    with pytest.raises(ExportError, match="last words") as caught:
        export.result()
    assert len(caught.value.message) < 1000


def test_missing_program(tmp_path: Path) -> None:
    exporter = VBoxManageExporter(VBoxManage(str(tmp_path / "none"), SubprocessRunner(), 5))
    with pytest.raises(VBoxManageError, match="cannot start"):
        exporter.start(Machine(A, "web01", "/x.vbox"), tmp_path / "x.ova")


@pytest.mark.parametrize(
    ("states", "use"),
    [
        (("created", "created"), DiskUse.FREE),
        (("created", "locked read"), DiskUse.READ),
        (("locked write", "locked read"), DiskUse.WRITTEN),
        (("inaccessible", "created"), DiskUse.FREE),
    ],
)
def test_disk_use_is_that_of_the_images_written_to(states: tuple[str, str], use: DiskUse) -> None:
    base = Image("9" * 8 + "-0000-0000-0000-000000000000", "/base.vdi", "VDI", "")
    chains = tuple((Image(uuid, "/x.vdi", "VDI", base.uuid), base) for uuid in (DISK, CHILD))
    answers = {
        ("showmediuminfo", "disk", uuid): [(0, f"State:  {state}\n", "")]
        for uuid, state in zip((DISK, CHILD), states, strict=True)
    }
    box = VBoxManage("VBoxManage", FakeRunner(answers), 1)
    assert disk_use(box, Machine(A, "web01", "/x.vbox", chains=chains)) is use
