"""The room that a backup takes.

Disks, what is kept beside the copy, and the memory of a VM that has to be saved first.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from shared.copies.catalogue import Catalogue
from shared.copies.space_needed import coarse
from shared.host.configuration import VmPolicy
from shared.host.errors import CopyError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import parse_machine
from tests.unit.virtualbox.fakes import A, machine
from worker.backup import room
from worker.backup.room import memory_of, needed_on_nas, require_room_for_memory

MEMORY = 3 << 30
BESIDE = 64 << 20


def vm(folder: Path, *, running: bool = True) -> Machine:
    settings = replace(
        parse_machine(machine(A, "web01").encode()), memory=MEMORY, snapshot_folder="Snapshots"
    )
    return Machine(A, "web01", str(folder / "web01.vbox"), running, settings=settings)


@pytest.mark.parametrize(
    ("running", "method", "saved", "more"),
    [
        (True, "savestate", "keep", MEMORY + BESIDE),
        (True, "savestate", "warn", 0),
        (True, "shutdown", "keep", 0),
        (True, "live", "keep", 0),
        (False, "savestate", "keep", 0),
    ],
)
def test_the_memory_of_a_vm_that_will_be_saved_goes_to_the_nas_too(
    tmp_path: Path, running: bool, method: str, saved: str, more: int
) -> None:
    none = Catalogue(tmp_path)
    least = needed_on_nas(vm(tmp_path, running=False), VmPolicy.model_validate({}), none)
    policy = VmPolicy.model_validate({"running": method, "saved": saved})
    assert needed_on_nas(vm(tmp_path, running=running), policy, none) - least == more


def test_a_host_without_room_for_the_memory_is_told_before(tmp_path: Path) -> None:
    require_room_for_memory(replace(vm(tmp_path), settings=None))
    wants = replace(vm(tmp_path), settings=replace(vm(tmp_path).settings, memory=2**60))  # type: ignore[type-var]
    with pytest.raises(
        CopyError, match=f"no room on this host for its memory: .* may be needed in {tmp_path}, "
    ):
        require_room_for_memory(wants)
    assert memory_of(wants) == 2**60 + BESIDE


def test_a_disk_that_does_not_say_how_full_it_is_keeps_nobody_from_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> object:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(room.shutil, "disk_usage", refuse)
    require_room_for_memory(vm(tmp_path))


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 bytes"),
        (1, "1 bytes"),
        (13 << 30, "13.0 GiB"),
        ((12 << 30) + 1, "13.0 GiB"),
        ((13 << 30) - 9, "13.0 GiB"),
    ],
)
def test_what_is_noted_does_not_change_with_every_block(size: int, said: str) -> None:
    assert coarse(size) == said
