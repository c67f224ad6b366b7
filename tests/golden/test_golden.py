"""What earlier releases left on a NAS is read, and gone on with, by the present programs."""

from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.state.store.snapshot import decode, encode
from tests.golden.world import HERE, SCENES, take_over, unpack
from tests.support.fleet import Fleet, Member
from tests.support.formats import give_format

FIRST = HERE / "027e4e6"


def states(member: Member) -> dict[str, str]:
    return {row["name"]: row["status"] for row in member.admin("status", "--json").json["vms"]}


def numbers(fleet: Fleet, directory: str) -> list[int]:
    """The claim numbers of the good copies in a directory, oldest first."""
    return [
        int(copy.stamp.rpartition("-")[2])
        for copy in catalogue.read(fleet.nas / directory, None).good
    ]


def stamp(fleet: Fleet, directory: str, number: int) -> str:
    return next(path.stem for path in (fleet.nas / directory).glob(f"*-{number}.ova"))


@pytest.mark.parametrize(
    "archive", SCENES, ids=lambda path: f"{path.parent.name}-{path.name.partition('.')[0]}"
)
def test_a_generation_is_written_again_byte_for_byte(archive: Path, tmp_path: Path) -> None:
    """What the present program writes in that format is what the release wrote for the same
    contents.
    """
    fleet = unpack(archive, tmp_path)
    generations = [
        path
        for path in (fleet.nas / "vmstate").glob("*/**/*")
        if path.is_file() and path.name.isdigit()
    ]
    assert generations or archive.name.startswith("version-1-0")
    for path in generations:
        snapshot = decode(path.read_bytes(), int(path.name))
        assert encode(snapshot.header, snapshot.contents) == path.read_bytes(), path.name


def test_all_that_the_first_release_left_is_shown(tmp_path: Path) -> None:
    fleet = unpack(FIRST / "ordinary.tar.xz", tmp_path)
    alpha = fleet.members["alpha"]
    assert states(alpha) == {
        "web01": "CLEAN",
        "old01": "ARCHIVED",
        "run01": "RUNNING",
        "half01": "BACKUP_IN_PROGRESS",
    }
    rows = alpha.admin("copies", "--json").json["copies"]
    seen = [
        (row["vm"], row["stamp"].rpartition("-")[2], row["good"], row["pinned"], row["archived"])
        for row in rows
    ]
    assert seen == [
        ("half01", "2", True, False, False),
        ("half01", "19", False, False, False),  # being written
        ("old01", "3", True, False, True),
        ("run01", "4", True, False, False),
        ("web01", "5", True, True, False),
        ("web01", "6", False, False, False),  # damaged
        ("web01", "7", True, False, False),
        ("web01", "8", True, False, False),
        ("e2f4052f-04e2-48de-a8f8-f83db6e3ed57", "1", True, False, False),  # gone01, forgotten
    ]
    assert all(row["verified"] for row in rows if row["vm"] == "web01")
    shown = alpha.admin("show", "web01").stdout
    assert "1 damaged copy" in shown
    assert "-6 " in shown
    commits = alpha.admin("log", "--limit", "100", "--json").json["commits"]
    assert [row["generation"] for row in commits] == list(range(1, 64))
    assert not any(row["problem"] for row in commits)
    assert alpha.admin("statedb", "check", "--json").json["findings"] == []


def test_the_first_release_is_gone_on_with(tmp_path: Path) -> None:
    """Backups, verification, archive, pins and retention go on where it was killed, and every copy
    that must stay stays.
    """
    fleet = unpack(FIRST / "ordinary.tar.xz", tmp_path)
    alpha = take_over(fleet)
    assert alpha.worker("run", expect=None).status == 4, "run01 runs"
    assert states(alpha) == {
        "web01": "CLEAN",
        "old01": "ARCHIVED",
        "run01": "RUNNING",
        "half01": "CLEAN",
    }
    assert not list(fleet.nas.rglob("*.partial.*"))
    assert {5, 8} < set(numbers(fleet, "web01")), "the pinned one and the newest"
    assert 2 in numbers(fleet, "half01")
    assert max(numbers(fleet, "half01")) > 19, "above that of the backup that was killed"
    assert numbers(fleet, "gone01") == [1], "no record has it any more"
    alpha.admin("activate", "old01")
    alpha.admin("archive", "old01")
    assert numbers(fleet, "archive/old01") == [3]
    alpha.admin("unpin", "web01", stamp(fleet, "web01", 5))
    alpha.admin("prune", "web01")
    assert len(numbers(fleet, "web01")) == 2
    alpha.admin("verify", "--all", expect=None)
    alpha.admin("restore", "run01", "--as", "run02")
    assert '"run02"' in alpha.host.run("list", "vms").stdout


def test_a_live_backup_that_was_killed_under_the_first_release_is_undone(tmp_path: Path) -> None:
    """By the record that it left: snapshot and clone are called by the number of its claim."""
    fleet = unpack(FIRST / "live.tar.xz", tmp_path)
    alpha = fleet.members["alpha"]
    power = fleet.record("web01").power
    assert power is not None
    assert f'"vmbackup-{power.claim}"' in alpha.host.run("list", "vms").stdout
    take_over(fleet)
    alpha.worker("database")
    record = fleet.record("web01")
    assert (record.power, record.claim) == (None, None)
    listed = alpha.host.run("list", "vms").stdout
    assert (listed.count("{"), '"web01"' in listed) == (1, True)
    assert (
        "does not have any snapshots"
        in alpha.host.run("snapshot", record.uuid, "list", check=False).stdout
    )
    assert (
        'VMState="running"' in alpha.host.run("showvminfo", record.uuid, "--machinereadable").stdout
    )


def test_a_publication_that_was_killed_under_the_first_release_is_finished(tmp_path: Path) -> None:
    fleet = unpack(FIRST / "publication.tar.xz", tmp_path)
    assert len(numbers(fleet, "web01")) == 1
    take_over(fleet).worker("database")
    assert states(fleet.members["alpha"]) == {"web01": "CLEAN"}
    assert len(numbers(fleet, "web01")) == 2
    assert not list(fleet.nas.rglob("*.partial.*"))


def test_a_vm_is_restored_from_a_nas_that_only_a_newer_program_may_write(tmp_path: Path) -> None:
    """In an emergency the program that is there will do; only the note of it is not made."""
    fleet = unpack(FIRST / "ordinary.tar.xz", tmp_path)
    alpha = fleet.members["alpha"]
    give_format(fleet.nas / "vmstate", "3.0")
    before = {path: path.lstat().st_mtime_ns for path in [fleet.nas, *fleet.nas.rglob("*")]}
    ran = alpha.admin("restore", "run01", "--as", "run02")
    assert "version 3.0; this program knows up to 2.0" in ran.stderr
    assert "that is not in the log" in ran.stderr
    assert '"run02"' in alpha.host.run("list", "vms").stdout
    assert {path: path.lstat().st_mtime_ns for path in [fleet.nas, *fleet.nas.rglob("*")]} == before


@pytest.mark.parametrize("scene", ["version-1-0", "migrated"])
def test_a_database_of_version_1_0_is_taken_over(tmp_path: Path, scene: str) -> None:
    fleet = unpack(FIRST / f"{scene}.tar.xz", tmp_path)
    alpha = fleet.members["alpha"]
    if scene == "version-1-0":
        assert "statedb migrate" in alpha.admin("status", expect=1).stderr
        alpha.admin("statedb", "migrate", "--lease-seconds", "10")
    take_over(fleet).worker("run")
    assert states(alpha) == {"web01": "CLEAN"}
    assert len(numbers(fleet, "web01")) == 1
