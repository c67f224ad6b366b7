"""Bash, zsh and fish complete the names that the state database has, quickly.

The shells are the real ones, with the scripts that `deploy/install` puts into the system.
"""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

import pytest

from tests.support.copies import put_copy
from tests.support.packages import require
from tests.unit.coordinator.conftest import Operator

pytestmark = pytest.mark.slow
STAMP: Final = "20261122T203800Z-17"
PROGRAM: Final = "vmbackup-admin"
#: What is typed, and what stands there after the key was pressed.
TYPED: Final = {
    "show web0": "show web01",
    "pin web01 2": f"pin web01 {STAMP}",
    "restore web01 --copy 2": f"restore web01 --copy {STAMP}",
    "mount web01 --copy 2": f"mount web01 --copy {STAMP}",
    "status --host alp": "status --host alpha",
}


@pytest.fixture
def shell_environment(site_with_database: Operator) -> dict[str, str]:
    operator = site_with_database
    operator.add_vms("web01", "db")
    put_copy(operator.nas / "web01", STAMP)
    (operator.folder / "home").mkdir()
    programs = str(Path(sys.executable).parent)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(operator.folder / "home"),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "VMBACKUP_CONFIG": str(operator.config),
    }


def script(shell: str, environment: dict[str, str]) -> str:
    asked = {**environment, "_VMBACKUP_ADMIN_COMPLETE": f"{shell}_source"}
    return subprocess.run([PROGRAM], env=asked, capture_output=True, text=True, check=True).stdout


def completed(command: list[str], environment: dict[str, str]) -> str:
    """What a shell offers. A busy machine may need a second press of the key."""
    for _ in range(3):
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        assert done.stderr == ""
        if done.stdout.strip():
            break
    return done.stdout.strip()


def test_bash(shell_environment: dict[str, str]) -> None:
    for typed, expected in TYPED.items():
        words = [PROGRAM, *typed.split()]
        code = script("bash", shell_environment) + (
            f"\nCOMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
            f'_vmbackup_admin_completion {PROGRAM}; printf "%s\\n" "${{COMPREPLY[@]}}"\n'
        )
        command = ["bash", "--norc", "-c", code]
        assert completed(command, shell_environment) == expected.split()[-1], typed


def test_fish(shell_environment: dict[str, str]) -> None:
    require("fish", "fish")
    code = script("fish", shell_environment)
    for typed, expected in TYPED.items():
        command = ["fish", "--no-config", "-c", f"{code}\ncomplete -C '{PROGRAM} {typed}'"]
        assert completed(command, shell_environment) == expected.split()[-1], typed


def test_zsh(shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Typed into a terminal: zsh completes nowhere else."""
    require("zsh", "zsh")
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / f"_{PROGRAM}").write_text(script("zsh", shell_environment))
    with Typing(["zsh", "-f", "-i"], shell_environment) as zsh:
        zsh.send(f"PS1=; fpath=({functions} $fpath); autoload -U compinit; compinit -u -D\r")
        zsh.send("print rea''dy\r")
        assert zsh.shows("ready\r\n", 60), zsh.seen
        for number, (typed, expected) in enumerate(TYPED.items()):
            zsh.seen = ""
            zsh.send(f"{PROGRAM} {typed}\t")
            if not zsh.shows(expected.removeprefix(typed)):
                zsh.send("\t")  # as anybody does when the machine was busy
            zsh.send(f"\x01print is{number}: \r")
            assert zsh.shows(f"is{number}: {PROGRAM} {expected}\r\n", 60), zsh.seen


class Typing:
    """A program at a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._terminal, inner = pty.openpty()
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def send(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def shows(self, text: str, seconds: float = 3) -> bool:
        """Whether it shows this after so many seconds at most."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._terminal], [], [], left)[0]:
                return False
            self.seen += os.read(self._terminal, 4096).decode(errors="replace")
        return True


def test_what_commands_need_is_not_imported_for_it(shell_environment: dict[str, str]) -> None:
    """The processor's time, not the wall's: it must feel at once, and the machine may be busy."""
    code = (
        "import sys, time, atexit, resource\n"
        "from coordinator.admin import main\n"
        "@atexit.register\n"
        "def told():\n"
        "    heavy = {'pydantic', 'psutil', 'coordinator.commands.restore'} & set(sys.modules)\n"
        "    print('heavy', sorted(heavy), time.process_time(), file=sys.stderr)\n"
        "main()\n"
    )
    asked = {
        **shell_environment,
        "_VMBACKUP_ADMIN_COMPLETE": "fish_complete",
        "COMP_WORDS": f"{PROGRAM} restore ",
        "COMP_CWORD": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, "x"], check=False, env=asked, capture_output=True, text=True
    )
    assert "web01" in done.stdout
    assert "heavy []" in done.stderr
    assert float(done.stderr.split()[-1]) < 0.3
