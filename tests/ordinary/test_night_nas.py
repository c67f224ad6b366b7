"""At three in the morning: NAS, database and copies.

Each test runs the commands of the manual and ends with the right copy's restore.
"""

import shutil
import subprocess
from pathlib import Path

from tests.ordinary import night as nights
from tests.ordinary import page, test_night_hosts
from tests.ordinary.histories import damage_generation, follow
from tests.ordinary.looking import content_of
from tests.ordinary.names import DB, WEB
from tests.ordinary.night import Night, situation
from tests.ordinary.world import ADMIN, HOSTS, WORKER, World
from tests.support.simulated.ova import read_vmdk


@situation("The NAS is full")
def test_the_nas_is_full(night: Night) -> None:
    world = night.world
    world.use(world.vm(WEB))
    world.nas_settings["reserve"] = "100 TiB"
    world.configure()
    codes = world.tick()
    assert codes[-1] == 13, world.story(f"{codes}")
    night.says(world.run(ADMIN, "status"), WEB)
    world.backup["keep_last"] = 1
    world.diary.keep = 1
    world.configure()
    night.says(night.do("vmbackup-admin prune --dry-run"), "would be removed")
    world.step(ADMIN, "prune", allowed=(0,), retains=True)
    (world.place / "beside" / "archive").mkdir(parents=True)
    world.configure(str(world.place / "beside" / "archive"), world.place / "beside")
    world.nas_settings.clear()  # the other file system has room
    world.configure(world.archive, *world.archives)
    hint = world.run(ADMIN, "archive", DB)  # another archive needs its marker by hand
    assert hint.status == 13, world.story("an archive without a marker")
    shutil.copy(world.nas / "archive" / ".vmbackup-archive", world.place / "beside" / "archive")
    night.says(night.do("vmbackup-admin archive", DB), "ARCHIVED")
    night.goes_on(WEB)
    night.comes_back(DB)
    world.configure("archive")


@situation("The NAS is away")
def test_the_nas_is_away_and_comes_back(night: Night) -> None:
    world = night.world
    world.use(world.vm(WEB))
    away = world.nas.rename(world.place / "elsewhere")
    assert world.run(WORKER, "run").status == 13, world.story("a tick without a NAS")
    assert not world.nas.exists(), "something was written where the NAS is not"
    away.rename(world.nas)
    night.goes_on(WEB)


@situation('"vmtool-statedb is behind"')
def test_the_view_cannot_be_replaced(night: Night) -> None:
    world, view = night.world, night.world.state / "vmtool-statedb"
    view.unlink()
    (view / "in the way").mkdir(parents=True)
    world.use(world.vm(WEB))
    night.says(world.run(WORKER, "-v", "notifier"), "behind")
    night.do("vmbackup-admin doctor")
    shutil.rmtree(view)
    night.goes_on(WEB)
    assert f"{WEB}:CLEAN" in view.read_text(encoding="utf-8")


_OTHER_NAS = '"holds no state database; this host knows …" or "holds the repository …"'


@situation(_OTHER_NAS)
def test_the_nas_was_replaced_and_everything_copied(night: Night) -> None:
    world = night.world
    old = world.nas.rename(world.aside / "old-nas")
    world.nas.mkdir()
    night.says(world.run(WORKER, "vmfind"), "holds no state database", status=13)
    assert list(world.nas.iterdir()) == [], "something was written to another NAS"
    subprocess.run(["cp", "-a", f"{old}/.", world.nas], check=True)
    night.goes_on(WEB)
    night.comes_back(DB)


@situation(_OTHER_NAS)
def test_the_nas_was_replaced_and_is_empty(night: Night) -> None:
    world = night.world
    for copy in world.look().copies:
        world.diary.spoil(copy)
    world.nas.rename(world.aside / "old-nas")
    world.nas.mkdir()
    night.follow_the_message("vmbackup-admin statedb accept")
    night.make_anew("vmbackup-admin init")
    night.goes_on(WEB, DB)


@situation(_OTHER_NAS)
def test_the_nas_was_replaced_and_only_the_copies_were_copied(night: Night) -> None:
    """The old copies are there beside a database that knows nothing of them.

    The newest stays the newest.
    """
    world = night.world
    shutil.rmtree(world.state)
    night.says(night.do("vmbackup-admin statedb accept --dry-run"), "would accept that")
    night.follow_the_message("vmbackup-admin statedb accept")
    night.make_anew("vmbackup-admin init")
    world.tick()
    for _ in range(3):
        night.goes_on(WEB)
    night.comes_back(DB)


@situation('"the history of the state database was rolled back"')
def test_the_nas_was_restored_from_a_backup(night: Night) -> None:
    world = night.world
    shutil.rmtree(world.state)
    shutil.copytree(world.aside / "older", world.state, symlinks=True)
    ran = world.run(WORKER, "notifier")
    night.says(ran, "rolled back", "`vmbackup-admin statedb accept`", status=1)
    night.follow_the_message("vmbackup-admin statedb accept")
    world.tick()
    for _ in range(3):
        night.goes_on(WEB)
    night.comes_back(DB)


_DAMAGED = '"generation N of the state database is damaged"'


@situation(_DAMAGED)
def _check_and_set_aside(night: Night) -> None:
    """As the check says, until it finds nothing more: then the message on each host is followed."""
    for _ in range(20):
        number = max(int(path.name) for path in (night.world.state / "gen").iterdir())
        if "WRONG" not in night.do("vmbackup-admin statedb check", judged=False).output:
            break
        ran = night.do(
            "vmbackup-admin statedb check --set-aside N", N=str(number), may_forgets=True
        )
        night.says(ran, f"generation {number} was moved", status=None)
    follow(night.world)


@situation(_DAMAGED)
def test_the_newest_generation_is_damaged(night: Night) -> None:
    world = night.world
    damage_generation(world, max(int(path.name) for path in (world.state / "gen").iterdir()))
    night.says(world.run(WORKER, "notifier"), "damaged", status=1)
    assert world.run(ADMIN, "status").status == 0, "status goes on showing the generation before"
    _check_and_set_aside(night)
    night.goes_on(WEB)
    night.comes_back(DB)


@situation(_DAMAGED)
def test_many_of_the_newest_generations_are_damaged(night: Night) -> None:
    world = night.world
    for number in sorted(int(path.name) for path in (world.state / "gen").iterdir())[-9:]:
        damage_generation(world, number)
    _check_and_set_aside(night)
    world.tick()
    for _ in range(3):
        night.goes_on(WEB)
    night.comes_back(DB)


@situation(_DAMAGED)
def test_the_version_file_is_damaged(night: Night) -> None:
    world = night.world
    version = world.state / "vmtool-db-version"
    version.chmod(0o640)
    version.write_bytes(version.read_bytes()[:20])
    assert world.run(WORKER, "notifier").status not in (0, 3, 4)
    night.do(
        "vmbackup-admin statedb check --rebuild-version", "--lease-seconds", "10", may_forgets=True
    )
    night.goes_on(WEB)
    night.comes_back(DB)


@situation(_DAMAGED)
def test_nothing_of_the_database_can_be_read(night: Night) -> None:
    """It is set aside and made anew of the copies.

    No copy is touched, and after it, too, the newest copy is the newest.
    """
    world = night.world
    for path in (world.state / "gen").iterdir():
        damage_generation(world, int(path.name))
    assert world.run(WORKER, "notifier").status == 1
    ran = night.do("vmbackup-admin statedb rebuild", may_forgets=True)
    night.says(ran, "made the state database", f"{WEB}: BACKUP_NECESSARY", "vmstate.aside-")
    follow(world)
    world.tick()
    for _ in range(3):
        night.goes_on(WEB)
    night.comes_back(DB)


@situation("The state database is lost")
def test_the_state_database_is_lost(night: Night) -> None:
    world = night.world
    shutil.rmtree(world.state)
    assert world.run(WORKER, "notifier").status == 13
    night.says(night.do("vmbackup-admin statedb rebuild --dry-run"), "would make")
    ran = night.do("vmbackup-admin statedb rebuild", "--lease-seconds", "10", may_forgets=True)
    night.says(ran, "made the state database", "vmbackup-admin statedb accept")
    night.do("vmbackup-admin statedb accept", "--yes", host="beta")
    world.tick()
    for _ in range(3):
        night.goes_on(WEB)
    night.comes_back(DB)


@situation("Somebody edited vmtool-statedb")
def test_somebody_edited_the_view(night: Night) -> None:
    world, view = night.world, night.world.state / "vmtool-statedb"
    view.chmod(0o640)
    view.write_text(f"{WEB}:BACKUP_NECESSARY\n{DB}:CLEAN\n", encoding="utf-8")
    night.world.run(WORKER, "database")
    night.says(night.do("vmbackup-admin statedb adopt --dry-run"), "would adopt")
    assert world.look().records[WEB]["status"] == "CLEAN"
    night.says(night.do("vmbackup-admin statedb adopt"), f"{WEB}: CLEAN -> BACKUP_NECESSARY")
    world.tick()
    assert world.look().records[WEB]["status"] == "CLEAN"
    night.comes_back(WEB)


@situation("A copy is damaged")
def test_a_copy_is_damaged(night: Night) -> None:
    world = night.world
    newest = world.diary.newest(world.vm(WEB).uuid, world.look())
    assert newest
    path = _file_of(world, newest.stamp)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o640)
    path.write_bytes(data)
    world.diary.spoil(newest)
    world.run(ADMIN, "verify", WEB)
    night.says(night.do("vmbackup-admin status"), "damaged")
    night.says(night.do("vmbackup-admin copies VM", VM=WEB), newest.stamp, "digest")
    night.comes_back(WEB)
    night.goes_on(WEB)
    assert path.exists(), "a damaged copy is not deleted"


@situation("A copy is needed, and nothing of this works")
def test_a_copy_is_imported_by_hand(night: Night) -> None:
    world = night.world
    newest = world.diary.newest(world.vm(WEB).uuid, world.look())
    assert newest
    check, load = page.situations()[night.title]
    assert check == "cd /mnt/nas/web01 && sha256sum -c 20261122T203800Z-17.sha256"
    assert load == "VBoxManage import 20261122T203800Z-17.ova --vsys 0 --vmname web01-restored"
    folder = _file_of(world, newest.stamp).parent
    program = world.hosts["beta"].vboxmanage
    for line in (check, load):
        here = (
            line.replace("20261122T203800Z-17", newest.stamp)
            .replace("/mnt/nas/web01", str(folder))
            .replace("VBoxManage", str(program))
        )
        subprocess.run(["/bin/sh", "-ec", here], cwd=folder, check=True, capture_output=True)
    made = world.hosts["beta"].vms / "web01-restored"
    (disk,) = made.glob("*.vmdk")
    assert content_of(read_vmdk(disk.read_bytes())) == world.diary.content(newest).partition("=")[2]


def _file_of(world: World, stamp: str) -> Path:
    (found,) = world.nas.rglob(f"{stamp}.ova")
    return found


def test_each_command_of_the_page_is_run_by_a_test_of_its_situation() -> None:
    """Page and tests cannot drift.

    A situation without a test, or a command that no test of it runs, fails here.
    """
    import sys

    told, found = page.told(), nights.shown(test_night_hosts, sys.modules[__name__])
    assert set(found) == set(told)
    assert len(HOSTS) == 2
    missing = {
        title: [line for line in lines if line not in found[title]] for title, lines in told.items()
    }
    assert {title: lines for title, lines in missing.items() if lines} == {}
