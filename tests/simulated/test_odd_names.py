"""VMs with every name that VirtualBox accepts, through the whole system.

Nothing outside of the NAS directories is touched.
"""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from coordinator.admin import program as admin
from shared.copies import catalogue
from shared.state.states import State
from shared.tasks.archiving import activate, archive
from tests.simulated.conftest import Rig
from worker import database
from worker.backup import worker as backup

NAMES = [
    "../../etc",
    "a/b",
    "..",
    ".hidden",
    "-rf",
    'say "hi"',
    "it's",
    "two\nlines",
    'x" {00000000-0000-4000-8000-000000000000}\n"y',
    # VirtualBox itself cannot write the bell down, and has U+FFFD there from then on
    "tab\tbell\x07return\r",
    "back\\slash",
    "con",
    "NUL.txt",
    "vmstate",
    "archive",
    "colon:percent%41",
    "<inaccessible>",
    "&amp;<b>",
    " spaces ",
    "trailing.",
    "ÄÖÜ ß 你好",
    "🦆🐘 emoji",
    "e\u0301 and é",
    "right\u202eleft",
    "6df1f3c0-7f0a-4e5c-a3c8-0123456789ab",
    "n" * 200,
    "$(touch pwned) `id` ${HOME}",
    "name@alpha",
    "Web01",
    "web01",
]


SHOWN = {name.replace("\x07", "\ufffd") for name in NAMES}


def everything(folder: Path, *, but: Path) -> dict[str, tuple[int, int, int]]:
    """All files outside of the NAS, with what a write would change."""
    found = {}
    for path in folder.rglob("*"):
        if not path.is_relative_to(but):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What lies beside the NAS and must stay as it is: `../../etc` from a directory of copies."""
    for name in ("etc", "a", "hosts/etc", "con"):
        place = tmp_path / name
        place.mkdir(parents=True)
        (place / "precious").write_text("untouched", encoding="utf-8")
    return tmp_path


def test_every_name_is_backed_up_archived_and_shown(
    rig: Rig, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = rig.host()
    vms = {name: host.make_vm(name, mib=2, random_mib=0) for name in NAMES}
    rig.look()
    uuids = {record.uuid: key for key, record in rig.site().database.head().contents.vms.items()}
    assert set(uuids) == {vm.uuid for vm in vms.values()}
    before = everything(outside, but=rig.nas)
    done = backup.run(rig.site(engine="parallel"))
    assert (set(uuids.values()) ^ set(done.done), done.failed, len(done.done)) == (
        set(),
        [],
        len(NAMES),
    )
    contents = rig.site().database.head().contents
    assert {record.status for record in contents.vms.values()} == {State.CLEAN}
    assert {record.name for record in contents.vms.values()} == SHOWN
    directories = {record.directory.casefold() for record in contents.vms.values()}
    assert len(directories) == len(NAMES), "no two VMs share a directory, on no file system"
    assert {path.name.casefold() for path in rig.nas.iterdir()} == directories | {
        "vmstate",
        "archive",
    }
    for record in contents.vms.values():
        assert len(catalogue.read(rig.nas / record.directory, None).good) == 1
        assert "/" not in record.directory
        assert len(os.fsencode(record.directory)) <= 143

    _shown(rig, monkeypatch)
    for key in (
        "../../etc",
        'x" {00000000-0000-4000-8000-000000000000}\n"y',
        "-rf",
        "n" * 200,
        "archive",
    ):
        assert archive(rig.site(), key).status is State.ARCHIVED
        assert activate(rig.site(), key).status is State.CLEAN
    assert database.run(rig.site()).exit_code == 0
    after = everything(outside, but=rig.nas)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {
        path
        for path in changed
        if not path.startswith(
            (f"{outside}/state-alpha", f"{outside}/hosts/alpha", f"{outside}/config.toml")
        )
    } == set()


def _shown(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON has the names as they are; the view has two fields a line.

    Tables have a line for each VM.
    """
    monkeypatch.setenv("NAS_MOUNTPOINT", str(rig.nas))
    settings = rig.folder / "config.toml"
    settings.write_text(
        (
            f'[nas]\nrequire_mount = false\n[host]\nnode = "alpha"\nstate_directory = '
            f'"{rig.folder}/state-alpha"\n'
        ),
        encoding="utf-8",
    )
    shown = CliRunner().invoke(admin, ["--config", str(settings), "status", "--json"])
    assert shown.exit_code == 0, shown.output
    assert {vm["name"] for vm in json.loads(shown.stdout)["vms"]} == SHOWN
    view = (rig.nas / "vmstate" / "vmtool-statedb").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(view) == len(NAMES)
    assert all(line.count(":") == 1 and line.endswith(":CLEAN") for line in view)
    table = CliRunner().invoke(admin, ["--config", str(settings), "status"])
    assert table.exit_code == 0, table.output
    assert not any(character in table.stdout for character in "\r\x07\t\u202e"), (
        "no name directs the terminal"
    )
