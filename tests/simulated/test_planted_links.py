"""Symbolic links that somebody planted in the NAS directories.

Nothing is written or removed behind them.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.host.errors import VmBackupError
from shared.site import Site
from shared.state.sessions import sweeping
from shared.tasks.archiving import activate, archive
from tests.simulated.conftest import Rig
from worker import database, notifier, verify, vmfind
from worker.backup import worker as backup

STAMP = "20200101T000000Z-1"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """What links point to: a directory that looks like one of ours, and must stay as it is."""
    folder = tmp_path / "precious"
    folder.mkdir()
    names = [
        "snapshot",
        "00000000000000000001",
        f"{STAMP}.ova",
        f"{STAMP}.json",
        f".{STAMP}.1.partial.ova",
        "vmtool-statedb",
        "content",
    ]
    for name in names:
        (folder / name).write_text("untouched", encoding="utf-8")
        os.utime(folder / name, (1, 1))
    return folder


def listing(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (path.read_text(encoding="utf-8"), path.stat().st_mtime_ns)
        for path in folder.iterdir()
    }


def everything(rig: Rig) -> list[str]:
    """All workers and moves, one after the other; what each refuses."""
    refused = []

    def attempt(work: Callable[[Site], object]) -> None:
        try:
            work(rig.site())
        except VmBackupError as error:
            refused.append(error.message)

    for worker in (database, vmfind, notifier, backup, verify):
        attempt(lambda site, worker=worker: worker.run(site))  # type: ignore[misc]
    attempt(lambda site: archive(site, "web01"))
    attempt(lambda site: activate(site, "web01"))
    attempt(lambda site: sweeping.sweep(site.database, site.database.head().contents))
    attempt(database.run)
    return refused


def make_due(rig: Rig) -> None:
    """A VM with one copy, which is to be backed up again."""
    vm = rig.host().make_vm("web01")
    backup.run(rig.look())
    vm.start()
    vm.stop()
    notifier.run(rig.site())


def in_place_of(target: Path, link: Path) -> None:
    """Puts a link where a directory or a file of ours was."""
    if link.exists():
        link.rename(link.with_name(f"{link.name}.was"))
    link.symlink_to(target)


@pytest.mark.parametrize(
    "where",
    [
        "web01",
        "archive",
        f"web01/{STAMP}.ova",
        f"web01/{STAMP}.json",
        f"web01/.{STAMP}.1.partial.ova",
        "archive/web01",
        "vmstate/tmp",
        "vmstate/node",
        "vmstate/history",
        "vmstate/tmp/old",
        "vmstate/node/old",
        "vmstate/vmtool-statedb",
        "vmstate/vmtool-dblock",
    ],
)
@pytest.mark.parametrize("to", ["directory", "file"])
def test_a_link_is_never_followed(
    rig: Rig, precious: Path, where: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "KEEP_GENERATIONS", 3)
    monkeypatch.setattr(database, "PRUNE_SLACK", 0)
    make_due(rig)
    good = {copy.stamp for copy in catalogue.read(rig.nas / "web01", None).good}
    place = rig.nas / where
    place.parent.mkdir(exist_ok=True)
    in_place_of(precious if to == "directory" else precious / "snapshot", place)
    os.utime(place, (1, 1), follow_symlinks=False)
    before = listing(precious)
    refused = everything(rig)
    assert listing(precious) == before, refused
    there = {
        copy.stamp
        for directory in rig.nas.rglob("web01*")
        if directory.is_dir() and not directory.is_symlink()
        for copy in catalogue.read(directory, None).good
    }
    assert good <= there, "and what is ours is still there"
