"""`statedb rebuild`: a lost state database is made anew of the copies."""

import errno
import os
import shutil
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.copies import catalogue
from shared.host.clock import SystemClock
from shared.host.errors import ExitCode, NasError
from shared.state.records import Power
from shared.state.sessions import sweeping
from shared.state.states import State
from shared.state.store import reserve
from shared.state.store.opening import read_version
from shared.state.store.salvage import salvage
from shared.tasks import rebuild_origin, rebuilding
from tests.support.copies import UUID, put_copy
from tests.unit.coordinator.conftest import Operator, copy, fall_silent, uuid
from tests.unit.coordinator.test_reading import tree

OLD, NEW = "20261122T203800Z-17", "20261123T203800Z-20"
NAMESAKE = "web-00000000"


@pytest.fixture
def site(site_with_database: Operator) -> Operator:
    """Two hosts with a VM `web` each, one archived VM, a pinned and a damaged copy."""
    operator = site_with_database
    operator.add_vms("web", "old")
    beta = other(operator)
    beta.add_vms("web")
    for stamp, more in ((OLD, {"pinned": "2026-11-24T00:00:00Z"}), (NEW, {})):
        put_copy(operator.nas / "web", stamp, **more)
    put_copy(operator.nas / "archive" / "old", OLD, uuid=uuid(1), vm="old")
    operator.set("old", status=State.ARCHIVED)
    second = operator.record("web@beta")
    operator.set("web@beta", directory=NAMESAKE)
    put_copy(operator.nas / NAMESAKE, NEW, uuid=second.uuid, node="beta")
    for host in (operator, beta):
        host.site().database.commit_once(
            lambda contents: replace(contents, claims_granted=contents.claims_granted + 1),
            f"seen by {host.node}",
            "test",
        )
    return operator


def other(operator: Operator) -> Operator:
    beta = Operator(operator.folder, "beta")
    beta.configure()
    return beta


def damage(operator: Operator, cut: int = 60) -> None:
    """Every generation is cut off."""
    for path in (operator.vmstate / "gen").iterdir():
        path.chmod(0o640)
        path.write_bytes(path.read_bytes()[:-cut])


def lose(operator: Operator) -> None:
    shutil.rmtree(operator.vmstate)


def copies_on(operator: Operator) -> dict[str, bytes]:
    """Every file that is not the database's."""
    return {
        str(path): path.read_bytes()
        for path in operator.nas.rglob("*")
        if path.is_file() and "vmstate" not in str(path) and not path.name.startswith(".")
    }


def states(operator: Operator) -> dict[str, tuple[str, str, str]]:
    return {
        key: (str(record.status), record.node, record.directory)
        for key, record in operator.contents.vms.items()
    }


EXPECTED = {
    "web": ("BACKUP_NECESSARY", "alpha", "web"),
    "web@beta": ("BACKUP_NECESSARY", "beta", NAMESAKE),
    "old": ("ARCHIVED", "alpha", "old"),
}


@pytest.mark.parametrize("befall", [lose, damage])
def test_a_database_that_is_deleted_or_truncated(site: Operator, befall: Any) -> None:
    repository, before = site.database().version.repository, copies_on(site)
    seen = site.database().head().generation
    befall(site)
    shown = site.json("statedb", "rebuild", "--dry-run")
    assert (shown["dry_run"], shown["set_aside"]) == (True, None)
    assert copies_on(site) == before
    made = site.json("statedb", "rebuild")
    assert {**made, "set_aside": None, "dry_run": True} == shown
    assert copies_on(site) == before
    assert states(site) == EXPECTED
    assert site.database().version.repository == repository == made["repository"]
    head = site.database().head()
    assert head.generation > seen, "beta has seen one more than this host"
    assert head.contents.claims_granted >= 20 + rebuild_origin.MARGIN
    web = head.contents.vms["web"]
    assert web.last_copy is not None
    assert web.last_copy.stamp == NEW
    assert [row["pinned"] for row in made["vms"] if row["vm"] == "web"] == [[OLD]]
    assert (made["accept"], made["hosts"]) == ("vmbackup-admin statedb accept", ["beta"])
    assert site.admin("statedb", "check").exit_code == ExitCode.DONE
    for command in ("status", "log", "copies"):
        assert site.admin(command).exit_code == ExitCode.DONE
    site.add_vms("fresh")
    assert site.admin("statedb", "check").exit_code == ExitCode.DONE
    assert site.database().head().generation == head.generation + 1


def test_what_was_in_vmstate_is_set_aside_whole(site: Operator) -> None:
    damage(site)
    before = contents_of(site.vmstate)
    before.pop(reserve.NAME)  # it says nothing, and takes room
    aside = Path(site.json("statedb", "rebuild")["set_aside"])
    assert aside.parent == site.nas
    assert aside.name.startswith("vmstate.aside-")
    assert contents_of(aside) == before
    assert not [name for name in os.listdir(site.nas) if name.startswith(".vmbackup-new")]


def contents_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_each_other_host_accepts_it_on_purpose(site: Operator) -> None:
    beta = other(site)
    lose(site)
    site.admin("statedb", "rebuild")
    assert site.lock("recover").exit_code == ExitCode.DONE
    refused = beta.lock("recover")
    assert refused.exit_code == ExitCode.FAILURE
    assert "was made anew from the copies" in refused.stderr
    assert "statedb accept" in refused.stderr
    assert beta.admin("statedb", "accept", "--yes").exit_code == ExitCode.DONE
    assert beta.lock("recover").exit_code == ExitCode.DONE


@pytest.mark.parametrize("befall", ["whole", "newest damaged", "version gone", "rolled back"])
def test_refused_while_a_database_can_be_read(site: Operator, befall: str) -> None:
    newest = max((site.vmstate / "gen").iterdir())
    if befall == "newest damaged":
        newest.chmod(0o640)
        newest.write_bytes(b"nonsense")
    elif befall == "rolled back":
        newest.unlink()
    elif befall == "version gone":
        (site.vmstate / "vmtool-db-version").unlink()
    before = tree(site.nas)
    for more in ((), ("--dry-run",)):
        result = site.admin("statedb", "rebuild", *more)
        assert result.exit_code == ExitCode.LOCKED, result.output
        assert "statedb check" in result.stderr
    assert tree(site.nas) == before


def test_one_of_version_1_0_or_of_a_newer_program_is_not_set_aside(operator: Operator) -> None:
    put_copy(operator.nas / "web", OLD)
    operator.vmstate.mkdir()
    version = operator.vmstate / "vmtool-db-version"
    version.write_text("TOOL_VERSION: 1.0\nDB_VERSION: 1.0\n")
    result = operator.admin("statedb", "rebuild")
    assert (result.exit_code, "migrate" in result.stderr) == (ExitCode.FAILURE, True)
    version.write_text("TOOL_VERSION: 9\nDB_VERSION: 9.0\n")
    result = operator.admin("statedb", "rebuild")
    assert (result.exit_code, "update vmbackup" in result.stderr) == (ExitCode.FAILURE, True)
    assert os.listdir(operator.vmstate) == ["vmtool-db-version"]


def test_refused_while_a_heartbeat_moves(site: Operator) -> None:
    with site.session() as session:
        session.commit(lambda contents: contents, "beat")
        damage(site)
        for more in ((), ("--dry-run",)):
            result = site.admin("statedb", "rebuild", *more)
            assert result.exit_code == ExitCode.LOCKED
            assert session.id in result.stderr
            assert set(os.listdir(site.nas)) == {"vmstate", "web", NAMESAKE, "archive"}
        fall_silent(session)
        assert site.admin("statedb", "rebuild").exit_code == ExitCode.DONE


def test_a_foreign_one_that_cannot_be_read_tells_nothing(site: Operator) -> None:
    repository = site.database().version.repository
    elsewhere = Operator(site.folder / "elsewhere")
    elsewhere.nas.mkdir(parents=True)
    elsewhere.configure()
    elsewhere.create()
    elsewhere.add_vms("strange")
    damage(elsewhere)
    lose(site)
    shutil.copytree(elsewhere.vmstate, site.vmstate)
    result = site.admin("statedb", "rebuild")
    assert result.exit_code == ExitCode.DONE
    assert "of the repository" in result.stderr
    assert site.database().version.repository == repository
    assert states(site) == EXPECTED


def test_the_id_is_read_wherever_it_stands(site: Operator) -> None:
    """On a host that is new, too."""
    repository = site.database().version.repository
    gamma = Operator(site.folder, "gamma")
    gamma.configure()
    damage(site)
    assert gamma.json("statedb", "rebuild", "--dry-run")["repository"] == repository
    (site.nas / "archive" / ".vmbackup-archive").unlink()
    (site.vmstate / "vmtool-db-version").unlink()
    shown = gamma.json("statedb", "rebuild", "--dry-run")
    assert (shown["repository"], shown["repository_from"]) == (
        repository,
        "the database that was lost",
    )
    put_copy(site.nas / "web", "20261124T203800Z-21", repository=repository, key="web")
    lose(site)
    shown = gamma.json("statedb", "rebuild", "--dry-run")
    assert (shown["repository"], shown["repository_from"]) == (repository, "the copies")


def test_names_in_the_database_are_those_that_the_copies_carry(site: Operator) -> None:
    second = site.record("web@beta")
    put_copy(site.nas / "web", "20261124T203800Z-21", key="web@alpha")
    put_copy(site.nas / NAMESAKE, "20261124T203800Z-22", uuid=second.uuid, node="beta", key="web")
    lose(site)
    site.admin("statedb", "rebuild")
    assert states(site) == {
        "web@alpha": EXPECTED["web"],
        "web": EXPECTED["web@beta"],
        "old": EXPECTED["old"],
    }


def test_a_forgotten_vm_does_not_take_the_name_of_the_live_one(site: Operator) -> None:
    """It was forgotten, and another of its name came: `restore web` takes the new one's."""
    put_copy(site.nas / "web", "20261124T203800Z-21", key="web")
    put_copy(site.nas / "web-4d75f2f1", "20261125T203800Z-22", uuid=uuid(9), key="web")
    lose(site)
    made = site.json("statedb", "rebuild")
    named = {row["vm"]: row["directory"] for row in made["vms"]}
    assert named["web"] == "web-4d75f2f1"
    assert named["web@alpha"] == "web"
    assert site.record("web").uuid == uuid(9)


def test_what_only_the_lost_database_knew_is_printed(site: Operator) -> None:
    site.set("web", power=Power("savestate", "running", 21, node="alpha"))
    site.set("web@beta", failures=3, last_error="no room", waiting="waits for its window")
    site.add_vms("fresh")
    damage(site)
    lost = site.json("statedb", "rebuild", "--dry-run")["lost"]
    assert {(each["vm"], each["kind"]) for each in lost} == {
        ("web", "power"),
        ("web@beta", "failures"),
        ("web@beta", "waiting"),
        ("fresh", "no copy"),
    }
    text = site.admin("statedb", "rebuild").stdout
    assert "web: a backup saved it on alpha, where it was running" in text
    assert "3 backups in a row had failed: no room" in text
    assert "vmbackup-admin statedb accept" in text


def test_half_moves_and_copies_that_do_not_count_are_listed_and_left(site: Operator) -> None:
    put_copy(site.nas / "old", NEW, uuid=uuid(1), vm="old")
    (site.nas / "web" / f"{OLD}.ova").write_bytes(b"short")
    lose(site)
    before = copies_on(site)
    made = site.json("statedb", "rebuild")
    assert copies_on(site) == before
    kinds = {(each["vm"], each["kind"]) for each in made["left"]}
    assert kinds == {("old", "half moved"), ("web", "does not count")}
    assert states(site)["old"] == ("BACKUP_NECESSARY", "alpha", "old"), "its newest copy is here"
    assert site.record("web").damaged == (OLD,)
    assert site.admin("archive", "old").exit_code == ExitCode.DONE
    assert {copy.stamp for copy in catalogue.read(site.nas / "archive" / "old", None).good} == {
        OLD,
        NEW,
    }


def test_two_vms_in_one_directory_do_not_share_it(site: Operator) -> None:
    put_copy(site.nas / "web", "20261124T203800Z-30", uuid=uuid(9), vm="web", node="gamma")
    lose(site)
    made = site.json("statedb", "rebuild")
    (record,) = (vm for vm in site.contents.vms.values() if vm.directory == "web")
    assert record.uuid == uuid(9), "its copies came last"
    assert [each["kind"] for each in made["left"]] == ["without a record"]


def test_a_vm_keeps_its_directory_beside_copies_of_its_copies(site: Operator) -> None:
    """By what is left of the database, else by where most of them are."""
    shutil.copytree(site.nas / "web", site.nas / "a copy of web")
    (site.nas / "a copy of web" / f"{OLD}.ova").unlink()
    lose(site)
    shown = site.json("statedb", "rebuild", "--dry-run")
    assert {row["vm"]: row["directory"] for row in shown["vms"]}["web"] == "web"
    assert ("web", "elsewhere") in {(each["vm"], each["kind"]) for each in shown["left"]}


def test_on_a_tie_the_directory_of_the_name_is_the_vms_and_the_other_stays(site: Operator) -> None:
    """By nothing but the names: the other one sorts first and has more copies."""
    shutil.copytree(site.nas / "web", site.nas / "a-copy")
    put_copy(site.nas / "a-copy", "20261121T203800Z-16")
    lose(site)
    made = site.json("statedb", "rebuild")
    assert {row["vm"]: row["directory"] for row in made["vms"]}["web"] == "web"
    (said,) = (each["text"] for each in made["left"] if each["kind"] == "elsewhere")
    assert said == f"copies of it without a record are in {site.nas / 'a-copy'}"
    rows = site.json("copies")["copies"]
    assert {row["vm"] for row in rows if not row["listed"]} == {str(site.nas / "a-copy")}


def test_on_a_tie_what_is_left_of_the_database_names_the_directory(site: Operator) -> None:
    shutil.copytree(site.nas / "web", site.nas / "a-copy")
    site.set("web", directory="a-copy")
    damage(site)
    made = site.json("statedb", "rebuild")
    assert {row["vm"]: row["directory"] for row in made["vms"]}["web"] == "a-copy"


def test_a_vm_whose_newest_copy_is_here_and_in_the_archive_is_backed_up(site: Operator) -> None:
    """Somebody copied it there, or a move was killed: both commands that are named settle it."""
    shutil.copytree(site.nas / "web", site.nas / "archive" / "web")
    lose(site)
    made = site.json("statedb", "rebuild")
    assert states(site) == EXPECTED
    (text,) = (each["text"] for each in made["left"] if each["kind"] == "half moved")
    assert f"{OLD}, {NEW} in the archive and here, too" in text
    assert site.record("web").last_copy is not None
    for command in ("archive", "activate"):
        assert f"`vmbackup-admin {command} web`" in text
        assert site.admin(command, "web").exit_code == ExitCode.DONE
    assert not (site.nas / "archive" / "web").exists()
    assert [found.stamp for found in catalogue.read(site.nas / "web", None).good] == [OLD, NEW]


def test_one_that_is_damaged_here_is_here_all_the_same(site: Operator) -> None:
    shutil.copytree(site.nas / "web", site.nas / "archive" / "web")
    (site.nas / "web" / f"{NEW}.ova").write_bytes(b"short")
    lose(site)
    site.json("statedb", "rebuild")
    assert states(site) == EXPECTED


@pytest.mark.parametrize("moving", [None, "archive", "activate"])
def test_what_is_left_of_the_database_says_that_it_was_archived(
    site: Operator, moving: Any
) -> None:
    """The newest copy is in both places, as a move between two file systems leaves it."""
    shutil.copytree(site.nas / "archive" / "old", site.nas / "old")
    site.set("old", moving=moving)
    damage(site)
    made = site.json("statedb", "rebuild")
    assert states(site) == EXPECTED
    (text,) = (each["text"] for each in made["left"] if each["kind"] == "half moved")
    assert f"{OLD} here and in the archive, too" in text
    for command in ("activate", "archive"):
        assert f"`vmbackup-admin {command} old`" in text
        assert site.admin(command, "old").exit_code == ExitCode.DONE
    assert not (site.nas / "old").exists()


def test_whoever_meets_a_lost_database_is_shown_the_way(site: Operator) -> None:
    site.site().prepare_archive()
    damage(site)
    check = site.admin("statedb", "check")
    assert check.exit_code == ExitCode.FAILURE
    assert "statedb rebuild" in check.stdout
    assert "--set-aside" not in check.stdout
    assert "nothing needs to be done" not in check.stdout
    lose(site)
    for command, code in ((("statedb", "check"), ExitCode.NO_DATABASE), (("init",), ExitCode.NAS)):
        result = site.admin(*command)
        assert result.exit_code == code, result.output
        assert "statedb rebuild" in result.stderr


def test_no_copy_no_database(operator: Operator) -> None:
    for more in ((), ("--dry-run",)):
        result = operator.admin("statedb", "rebuild", *more)
        assert result.exit_code == ExitCode.NO_DATABASE
        assert "init" in result.stderr
    assert os.listdir(operator.nas) == []


def test_an_archive_that_is_not_mounted_is_not_taken_for_an_empty_one(site: Operator) -> None:
    site.site().prepare_archive()
    lose(site)
    os.rename(site.nas / "archive", site.folder / "away")
    (site.nas / "archive").mkdir()
    assert site.admin("statedb", "rebuild").exit_code == ExitCode.NAS
    assert not site.vmstate.exists()


@pytest.mark.parametrize("there", [True, False])
def test_an_archive_of_which_a_new_host_knows_nothing(site: Operator, there: bool) -> None:
    """What is left of the database says that VMs were archived; else it asks."""
    gamma = Operator(site.folder, "gamma")
    gamma.configure()
    site.set("old", last_copy=copy(OLD))
    os.rename(site.nas / "archive", site.folder / "away")
    if there:
        (site.nas / "archive").mkdir()
    damage(site)
    aside = site.nas / "vmstate.aside-20261129T030000Z-0123abcd"
    os.rename(site.vmstate, aside)
    before = tree(site.nas)
    for more in (("--dry-run",), (), ("--yes",)):
        assert gamma.admin("statedb", "rebuild", *more).exit_code == ExitCode.NAS
    assert tree(site.nas) == before
    shutil.rmtree(aside)
    before = tree(site.nas)
    shown = gamma.admin("statedb", "rebuild", "--dry-run")
    assert (shown.exit_code, "no archive was found" in shown.stderr) == (ExitCode.DONE, True)
    asked = gamma.admin("statedb", "rebuild")
    assert (asked.exit_code, "no archive was found" in asked.stderr) == (ExitCode.USAGE, True)
    assert tree(site.nas) == before
    assert gamma.json("statedb", "rebuild", "--yes")["archive_found"] is False
    assert set(states(gamma)) == {"web", "web@beta"}


def test_the_nas_is_away(site: Operator) -> None:
    lose(site)
    os.rename(site.nas, site.folder / "away")
    assert site.admin("statedb", "rebuild").exit_code == ExitCode.NAS


def test_a_rename_that_is_refused_changes_nothing(
    site: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(site)
    before, rename = contents_of(site.nas), os.rename

    def refuse(source: Any, target: Any, **more: Any) -> None:
        if Path(source) == site.vmstate:
            raise PermissionError(13, "Permission denied", str(source))
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", refuse)
    pauses: list[float] = []
    monkeypatch.setattr(SystemClock, "sleep", lambda _clock, seconds: pauses.append(seconds))
    result = site.admin("statedb", "rebuild")
    assert result.exit_code == ExitCode.NAS
    assert "open on some host" in result.stderr
    assert sum(pauses) == 9.5, "it may pass"
    assert contents_of(site.nas) == before
    monkeypatch.undo()
    assert site.admin("statedb", "rebuild").exit_code == ExitCode.DONE


def test_a_database_that_another_host_made_meanwhile_is_put_back(
    site: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts make it anew at once: the second one has found the old one, and meets the new."""
    damage(site)
    from shared.state.store import exchange

    put_in_place = exchange.put_in_place

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(exchange, "put_in_place", put_in_place)
        assert other(site).admin("statedb", "rebuild").exit_code == ExitCode.DONE
        return put_in_place(*arguments)

    monkeypatch.setattr(exchange, "put_in_place", late)
    result = site.admin("statedb", "rebuild")
    assert result.exit_code == ExitCode.LOCKED
    assert site.database().head().header.node == "beta"
    assert states(site) == EXPECTED
    assert len([name for name in os.listdir(site.nas) if name.startswith("vmstate")]) == 2


def test_repeated_where_it_was_killed_between_the_two_names(site: Operator) -> None:
    """The old one is whole under its new name, and says what it knew."""
    repository = site.database().version.repository
    site.set("web", failures=2, last_error="no room")
    damage(site)
    os.rename(site.vmstate, site.nas / "vmstate.aside-20261129T030000Z-0123abcd")
    (site.nas / ".vmbackup-new-database-0123").mkdir()
    made = site.json("statedb", "rebuild")
    assert made["repository"] == repository
    assert [each["kind"] for each in made["lost"]] == ["failures"]
    assert states(site) == EXPECTED


def test_a_generation_that_is_damaged_in_one_row_tells_the_others(site: Operator) -> None:
    site.set("old", failures=1, last_error="x")
    for path in (site.vmstate / "gen").iterdir():
        path.chmod(0o640)
        data = path.read_bytes().replace(b'"key":"web"', b'"key:"web"')
        path.write_bytes(data.replace(b"\nend\n", b"\nEnd\n"))
    made = site.json("statedb", "rebuild")
    assert [(each["vm"], each["kind"]) for each in made["lost"]] == [("old", "failures")]
    assert read_version(site.vmstate).lease_seconds == made["lease_seconds"] == 1.0


def test_what_was_set_aside_takes_no_room_for_its_reserve(site: Operator) -> None:
    (site.vmstate / "reserve").write_bytes(b"x" * 100)
    damage(site)
    aside = Path(site.json("statedb", "rebuild")["set_aside"])
    assert not (aside / "reserve").exists()
    (aside / "reserve").write_bytes(b"an older program left it")
    before = sorted(path.name for path in aside.iterdir() if path.name != "reserve")
    assert sweeping.sweep_beside(site.database()) == [f"{aside.name}/reserve"]
    assert sorted(path.name for path in aside.iterdir()) == before


def test_on_a_full_nas_the_reserve_of_the_lost_database_makes_room(
    site: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.vmstate / "reserve").write_bytes(b"x" * 100)
    damage(site)
    create = rebuilding.create_anew

    def full(root: Path, *arguments: Any) -> Any:
        if (site.vmstate / "reserve").exists():
            (root / "gen").mkdir(parents=True)
            raise NasError("no room") from OSError(errno.ENOSPC, "No space left on device")
        return create(root, *arguments)

    monkeypatch.setattr(rebuilding, "create_anew", full)
    assert site.admin("statedb", "rebuild").exit_code == ExitCode.DONE
    assert states(site) == EXPECTED
    assert not list(site.nas.glob(".vmbackup-new-database-*"))


def test_what_a_killed_making_left_on_another_host_is_swept_after_a_day(site: Operator) -> None:
    left = site.nas / ".vmbackup-new-database-0123"
    (left / "gen").mkdir(parents=True)
    (left / "gen" / "1").write_bytes(b"x")
    link = site.nas / ".vmbackup-new-database-4567"
    link.symlink_to(site.nas / "web")
    assert sweeping.sweep_beside(site.database()) == []
    old = time.time() - 25 * 3600
    os.utime(left, (old, old))
    assert sweeping.sweep_beside(site.database()) == [], "somebody makes something in it"
    os.utime(left / "gen", (old, old))
    assert sweeping.sweep_beside(site.database()) == [left.name]
    assert not left.exists()
    assert len(list((site.nas / "web").glob("*.ova"))) == 2


def test_files_without_end_are_no_generations(tmp_path: Path) -> None:
    """One whole one is found behind more of them than the memory holds."""
    folder = tmp_path / "vmstate/gen"
    folder.mkdir(parents=True)
    for number in range(2, 12):
        (folder / f"{number:020d}").touch()
        os.truncate(folder / f"{number:020d}", 40 << 30)
    text = f"vmbackup-state 2.0\nrepository {UUID}\ngeneration 1\n"
    (folder / f"{1:020d}").write_text(text, encoding="utf-8")
    tracemalloc.start()
    found = salvage(tmp_path / "vmstate")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.repository, found.generation) == (UUID, 11)
    assert most < 100 << 20


def test_what_is_nested_without_end_stops_no_sweeping(site: Operator) -> None:
    """A new database whose making was killed has a few levels."""
    place = at = site.nas / ".vmbackup-new-database-0"
    for _ in range(50):
        at.mkdir()
        os.utime(at, (0, 0))
        at /= "d"
    os.utime(place, (0, 0))
    assert sweeping.sweep_beside(site.database()) == []
    assert place.is_dir()
