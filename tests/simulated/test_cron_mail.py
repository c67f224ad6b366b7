"""What `vmbackup-worker run` prints where cron mails it, tick by tick."""

import os
import pty
import subprocess
import sys

from tests.simulated.conftest import Rig
from tests.simulated.test_hang_up import program


def mail(rig: Rig, *options: str) -> tuple[int, str]:
    """One tick: its exit code, and what cron would mail."""
    process = program(rig, *options, "run")
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_a_damaged_database_is_one_message_and_none_at_the_next_tick_until_it_is_over(
    rig: Rig,
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    generations = rig.nas / "vmstate" / "gen"
    newest = max(generations.iterdir())
    whole = newest.read_bytes()
    newest.write_bytes(whole.replace(b"web01", b"web02"))
    status, said = mail(rig)
    assert (status, said.count("error: "), said.count("is damaged:")) == (1, 1, 1), said
    assert mail(rig) == (1, "")
    status, said = mail(rig, "-v")
    assert (status, said.count("error: ")) == (1, 1), said
    newest.write_bytes(whole)
    status, said = mail(rig)
    assert (status, said.count("is over"), len(said.splitlines())) == (0, 1, 1), said
    log = (rig.folder / "state-alpha" / "run.log").read_text()
    assert log.count("damaged") > 10, "the log has what was not printed"


def test_a_terminal_is_told_again(rig: Rig) -> None:
    (rig.nas / "vmstate").rename(rig.nas / "elsewhere")
    status, said = mail(rig)
    assert (status, said.count("error: ")) == (10, 1)
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "worker.cli", "--config", str(rig.folder / "config.toml")]
    done = subprocess.run([*command, "run"], stderr=terminal, check=False)
    os.close(terminal)
    assert (done.returncode, os.read(main, 4096).count(b"error: ")) == (10, 1)
    os.close(main)
