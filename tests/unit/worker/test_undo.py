"""Folders of a clone on other file systems than that of its VM: they go before all else."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from shared.host.errors import VBoxManageError
from shared.state.records import Power
from shared.virtualbox import scratch
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import Image
from tests.unit.state.builders import StillClock, vm
from worker.backup.paused_clone import PausedClone
from worker.backup.undo import made_by, undo_live

CLONE = "bbbbbbbb-0000-0000-0000-000000000000"


def test_they_are_known_also_when_the_vm_is_not_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, disks = tmp_path / "web01", tmp_path / "disks"
    home.mkdir()
    disks.mkdir()
    monkeypatch.setattr(
        "worker.backup.paused_clone.folder_of_clone", lambda path, _, name: path.parent / name
    )
    power = Power("pause", "running", 7, scratch.new_token(), CLONE)
    power = replace(power, folder=str(home / power.tag))
    made = made_by(power)
    scratch.make(made.folder, scratch.Mark(made.name, made.clone))
    image = Image("c", str(disks / "data.vdi"), "VDI", "")
    machine = Machine("a", "web01", str(home / "web01.vbox"), chains=((image,),))
    (folder,) = PausedClone(machine, made, "r").folders
    assert PausedClone.folder_for(folder / "Snapshots" / "{clone}.vdi") == disks
    other = Machine("b", "db01", str(tmp_path / "db01" / "db01.vbox"))
    site = Mock(clock=StillClock(), **{"inventory.return_value": {"b": other}})
    away = disks.rename(tmp_path / "away")
    with pytest.raises(VBoxManageError, match="out of reach"):
        undo_live(site, vm("web01"), power)
    assert made.folder.exists()
    away.rename(disks)
    undo_live(site, vm("web01"), power)
    assert (list(home.iterdir()), list(disks.iterdir())) == ([], [])


def test_images_that_virtualbox_has_in_mind_of_a_clone_before_are_closed(tmp_path: Path) -> None:
    """Whoever unregistered it died before he closed them: they have the same UUIDs."""
    home = tmp_path / "web01"
    home.mkdir()
    images = (
        Image("leaf", str(home / "l.vdi"), "VDI", ""),
        Image("base", str(home / "b.vdi"), "VDI", ""),
    )
    for image in images:
        Path(image.location).touch()
    machine = Machine("a", "web01", str(home / "web01.vbox"), chains=(images,))
    power = replace(Power("pause", "running", 7, scratch.new_token(), CLONE), folder="")
    made = made_by(replace(power, folder=str(home / power.tag)))
    scratch.make(made.folder, scratch.Mark(made.name, made.clone))
    clone = PausedClone(machine, made, "r")
    asked: list[tuple[str, ...]] = []

    def run(*words: str) -> None:
        asked.append(words)
        if len(asked) == 1:
            raise VBoxManageError("a hard disk with that UUID already exists")
        if words[0] == "closemedium" and len(asked) == 2:
            raise VBoxManageError("no such medium")

    clone.complete = lambda: home / "clone.vbox"  # type: ignore[method-assign]
    clone.register(Mock(run=run))
    assert [words[0] for words in asked] == [
        "registervm",
        "closemedium",
        "closemedium",
        "registervm",
    ]
    assert len({words[2] for words in asked[1:3]}) == 2
