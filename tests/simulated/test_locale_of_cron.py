"""Cron without a locale: VMs whose names it cannot spell are found and backed up all the same."""

from pathlib import Path

from shared.state.states import State
from tests.simulated.conftest import Rig
from tests.simulated.test_hang_up import program

NAME = "日本"


def test_a_vm_with_a_japanese_name_is_found_and_backed_up_without_a_locale(rig: Rig) -> None:
    rig.host().make_vm(NAME)
    bare = ["env", "-u", "LANG", "-u", "LC_CTYPE", "-u", "PYTHONUTF8", "LC_ALL=C"]
    for worker in ("vmfind", "notifier", "backup"):
        process = program(rig, "-v", worker, before=[*bare, "PYTHONCOERCECLOCALE=0"])
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    record = rig.record(NAME)
    assert (record.status, record.name) == (State.CLEAN, NAME)
    assert record.last_copy is not None
    assert (rig.nas / record.directory / f"{record.last_copy.stamp}.ova").is_file()
    assert [path.name for path in Path(rig.nas).iterdir() if NAME in path.name]
