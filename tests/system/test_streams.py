"""Programs whose output goes nowhere: closed, full, or to a reader that has gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.host.errors import ExitCode
from shared.tasks.judgement import Level

BIN = Path(sys.executable).parent
GENERATE = f"{BIN / 'vmbackup-admin'} config generate"
STATUS = f"{BIN / 'vmbackup-admin'} status"
WORKER = f"{BIN / 'vmbackup-worker'} vmfind"


def shell(command: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"
    } | {"VMBACKUP_CONFIG": "/dev/null"}
    return subprocess.run(
        ["sh", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (f"{GENERATE} >&-", ExitCode.DONE),
        (f"{GENERATE} <&- >&- 2>&-", ExitCode.DONE),
        (f"{STATUS} >&-", ExitCode.USAGE),
        (f"{STATUS} 2>&-", ExitCode.USAGE),
        (f"{STATUS} 2>/dev/full", ExitCode.USAGE),
        (f"{STATUS} --json 2>/dev/full", ExitCode.USAGE),
        (f"{WORKER} >&- 2>&-", ExitCode.USAGE),
        (f"{WORKER} >/dev/full 2>/dev/full", ExitCode.USAGE),
    ],
)
def test_a_stream_that_takes_nothing_changes_no_exit_code(command: str, code: ExitCode) -> None:
    done = shell(command)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "fault of the program" not in done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (GENERATE, ExitCode.FAILURE),
        (f"{BIN / 'vmbackup-admin'} --help", ExitCode.FAILURE),
        (f"{BIN / 'vmbackup-lock'} list --help", ExitCode.FAILURE),
        (f"{BIN / 'vmbackup-admin'} check", Level.UNKNOWN),  # 1 would be a warning of a backup
    ],
)
def test_output_that_cannot_be_written_is_said_in_one_sentence(command: str, code: int) -> None:
    done = shell(f"{command} >/dev/full")
    assert done.returncode == code
    assert done.stderr.splitlines()[0].endswith(
        "error: the output could not be written: No space left on device"
    )
    assert len(done.stderr.splitlines()) == 2


def test_no_file_ever_takes_the_place_of_a_closed_stream() -> None:
    """What a program opens first would get number 1, and be written to by whatever prints."""
    program = (
        "import os\nfrom shared.host import streams\nstreams.make_usable()\nprint('for nobody')\n"
        "found = [os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)]\n"
        "kept = [os.get_inheritable(n) for n in (0, 1, 2)]\n"
        "raise SystemExit(0 if found == ['/dev/null'] * 3 and all(kept) else 1)"
    )
    assert shell(f'{sys.executable} -P -c "{program}" <&- >&- 2>&-').returncode == 0
