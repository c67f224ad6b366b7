"""A test that fails and passes when it is run again is named, and fails `make test`."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.flaky import VIRTUALBOX_FAULTS

ROOT = Path(__file__).resolve().parents[2]
FAULT = next(iter(VIRTUALBOX_FAULTS))
TESTS = """
import os
from pathlib import Path

def fail_once(message):
    seen = Path(__file__).with_name(os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split()[0])
    before = seen.exists()
    seen.touch()
    assert before, message

def test_fails_once():
    fail_once("too late")

def test_fails_once_for_virtualbox():
    fail_once("VBoxManage: error: " + FAULT)

def test_fails_always():
    assert False
"""
AGAIN = ("--again", "--last-failed", "--last-failed-no-failures", "none")


def run(folder: Path, *more: str, flaky: str = "") -> tuple[int, list[str]]:
    """The status of a run of these tests, and what it says of flaky ones."""
    words = ["-q", "-p", "tests.support.flaky", "--rootdir", folder, *more, folder]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "VMBACKUP_FLAKY": flaky},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, re.findall(r"^FLAKY .*$", done.stdout, re.MULTILINE)


def put_tests(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(f"FAULT = {FAULT!r}\n{TESTS}")


def test_what_passes_at_the_second_run_is_named_and_fails_it(tmp_path: Path) -> None:
    put_tests(tmp_path)
    reason = VIRTUALBOX_FAULTS[FAULT]
    assert run(tmp_path) == (1, [])
    status, flaky = run(tmp_path, *AGAIN, "--deselect", "test_it.py::test_fails_always")
    assert (status, flaky) == (
        1,
        [
            "FLAKY test_it.py::test_fails_once: AssertionError: too late",
            f"FLAKY test_it.py::test_fails_once_for_virtualbox: forgiven, {reason}",
        ],
    )


def test_where_it_is_only_printed_it_does_not_fail_the_run(tmp_path: Path) -> None:
    put_tests(tmp_path)
    assert run(tmp_path) == (1, [])
    words = (*AGAIN, "--deselect", "test_it.py::test_fails_always")
    status, flaky = run(tmp_path, *words, flaky="print")
    assert (status, len(flaky)) == (0, 2)


def test_a_fault_of_virtualbox_is_forgiven_in_the_open(tmp_path: Path) -> None:
    put_tests(tmp_path)
    assert run(tmp_path, "-k", "virtualbox") == (1, [])
    status, flaky = run(tmp_path, *AGAIN)
    assert (status, [line.partition(": ")[0] for line in flaky]) == (
        0,
        ["FLAKY test_it.py::test_fails_once_for_virtualbox"],
    )


def test_what_fails_twice_is_not_flaky(tmp_path: Path) -> None:
    put_tests(tmp_path)
    assert run(tmp_path, "-k", "always") == (1, [])
    assert run(tmp_path, *AGAIN) == (1, [])
