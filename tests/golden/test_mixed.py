"""Hosts are updated one after the other.

The first release on one host, the present programs on another, on one NAS.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.state.host_records import NodeRecord
from shared.state.store.database import Database
from shared.state.store.opening import open_database
from tests.crash.world import Programs, World
from tests.golden.scenes import INTENT, killed, use
from tests.support.fleet import Fleet, Member
from tests.support.formats import give_format
from tests.support.releases import FIRST, Release, install
from tests.support.simulated import SimulatedHost, SimulatedVm

REFUSED = "the state database is of version 2.0; this program knows up to 1.1"
#: All that the first release has, and that does not need a terminal.
EVERYTHING = [
    *("worker vmfind", "worker notifier", "worker backup", "worker verify", "worker database"),
    *(
        "admin status",
        "admin copies",
        "admin show web",
        "admin log",
        "admin verify --all",
        "admin prune",
    ),
    *(
        "admin archive web",
        "admin activate web",
        "admin forget web",
        "admin pin web STAMP",
        "admin unpin web STAMP",
    ),
    *("admin restore web --as other", "admin rehearse web", "admin statedb adopt"),
    *(
        "lock list",
        "lock show web",
        "lock break web --force",
        "lock recover alpha",
        "lock recover beta",
    ),
]
#: Runs command lines of the release in one process, and prints how each ended.
_RUN_ALL = """
import json, sys
from click.testing import CliRunner
from coordinator.admin import program as admin
from coordinator.lock import program as lock
from worker.cli import program as worker
programs = {"admin": admin, "lock": lock, "worker": worker}
for line in json.load(sys.stdin):
    name, *arguments = line.split()
    result = CliRunner().invoke(programs[name], arguments)
    print(json.dumps([line, result.exit_code, result.output]), flush=True)
"""
#: A process of the release that has opened the database, beats, and commits only when it is told
#: to.
#: Run by the first release, whose modules had other names.
_WAITING = """
import sys
from dataclasses import replace
from pathlib import Path
from shared.clock import SystemClock
from shared.errors import DatabaseVersionError
from shared.process import HostIdentity
from shared.statedb.database import open_database
database = open_database(Path(sys.argv[1]), HostIdentity.of_this_machine("alpha"), SystemClock())
with database.session("backup") as session:
    print(session.id, flush=True)
    sys.stdin.readline()
    try:
        session.commit(
            lambda contents: replace(contents, claims_granted=contents.claims_granted + 1),
            "anything",
        )
    except DatabaseVersionError as error:
        print(error.message, flush=True)
"""


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The first release, built from the history."""
    return install(FIRST, tmp_path_factory.mktemp("releases") / FIRST)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory, first: Release) -> tuple[Fleet, Path]:
    """The fleet when both have backed up, and a copy of its folder."""
    folder = tmp_path_factory.mktemp("mixed")
    made = Fleet(folder / "fleet")
    made.add(SimulatedHost(made.folder / "hosts", "alpha"), release=first)
    made.add(SimulatedHost(made.folder / "hosts", "beta"))
    for name, vm in (("alpha", "web"), ("beta", "db")):
        made.members[name].host.make_vm(vm, mib=1, random_mib=0)
        for worker in ("vmfind", "notifier", "backup"):
            made.members[name].worker(worker)
    subprocess.run(["cp", "-a", "--sparse=always", made.folder, folder / "kept"], check=True)
    return made, folder / "kept"


@pytest.fixture
def fleet(settled: tuple[Fleet, Path]) -> Fleet:
    """alpha has the first release, which made the database; beta has the present programs.

    Each has a VM of its own, which is CLEAN.
    """
    made, kept = settled
    shutil.rmtree(made.folder)
    subprocess.run(["cp", "-a", "--sparse=always", kept, made.folder], check=True)
    return made


@pytest.fixture
def alpha(fleet: Fleet) -> Member:
    return fleet.members["alpha"]


@pytest.fixture
def beta(fleet: Fleet) -> Member:
    return fleet.members["beta"]


def here(fleet: Fleet, node: str = "beta") -> Database:
    """The database as the present program sees it."""
    return open_database(fleet.nas / "vmstate", HostIdentity.of_this_machine(node), SystemClock())


def formats(fleet: Fleet) -> tuple[str, str]:
    database = here(fleet)
    return database.head().contents.format, database.version.database_version


def contents(nas: Path) -> dict[str, bytes]:
    """All that is on the NAS, to the bytes."""
    return {
        str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(nas.rglob("*"))
    }


def exporting(member: Member, vm: SimulatedVm) -> "subprocess.Popen[str]":
    """Starts a backup of a VM that is used again, and waits until it is being exported."""
    assert isinstance(member.host, SimulatedHost)
    member.host.fault(vm, export_seconds=60)
    vm.start()
    vm.stop()
    member.worker("notifier")
    process = member.start("vmbackup-worker", "backup")
    end = time.monotonic() + 60
    while not member.host.exports():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


def machine(member: Member, fleet: Fleet, key: str) -> SimulatedVm:
    assert isinstance(member.host, SimulatedHost)
    return SimulatedVm(member.host, fleet.record(key).uuid, key)


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_both_work_on_one_nas_in_the_format_of_the_older(
    fleet: Fleet, alpha: Member, beta: Member
) -> None:
    """Both back up, verify, archive and take back what the other made, and nothing of it changes
    the format.
    """
    assert fleet.states() == {"db": "CLEAN", "web": "CLEAN"}
    for member in (alpha, beta):
        assert {
            row["vm"] for row in member.admin("copies", "--json").json["copies"] if row["good"]
        } == {"web", "db"}
        member.admin("verify", "--all")
    for there, back, vm in ((alpha, beta, "db"), (beta, alpha, "web")):
        there.admin("archive", vm)
        assert fleet.states()[vm] == "ARCHIVED"
        back.admin("activate", vm)
        assert (fleet.states()[vm], len(fleet.copies(vm))) == ("CLEAN", 1)
    assert (formats(fleet), fleet.litter()) == (("1.1", "1.1"), [])


def test_what_is_new_survives_the_commits_of_the_older(
    fleet: Fleet, alpha: Member, beta: Member
) -> None:
    with here(fleet).session("backup") as own:
        record = fleet.record("db")
        new = type(record).from_json({**record.to_json(), "of_a_later_version": {"a": [1]}})
        own.commit(lambda found: found.with_vm(new), "a field that nobody knows")
        before = fleet.head().contents
        alpha.host.make_vm("late", mib=1, random_mib=0)
        alpha.worker("vmfind")
        after = fleet.head().contents
        assert after.sessions[own.id] == before.sessions[own.id]
        assert after.sessions[own.id].program
        assert after.vms["db"] == before.vms["db"]
        assert after.vms["late"].status == "NEW"


def test_neither_takes_a_living_session_of_the_other_for_dead(
    fleet: Fleet, alpha: Member, beta: Member
) -> None:
    """Also on one host, where the proof is the process.

    A worker of the older may still run there when the present one is installed.
    """
    process = exporting(alpha, machine(alpha, fleet, "web"))
    with here(fleet).session("test") as own:
        own.commit(
            lambda found: found.with_node(NodeRecord("beta", here(fleet).identity.machine)),
            "beta is there",
        )
        running = fleet.record("web").claim
        assert running is not None
        for member in (alpha, beta):
            member.worker("database")
        rows = fleet.head().contents.sessions
        assert (rows[running.session].state, rows[own.id].state) == ("live", "live")
    kill(process)


@pytest.mark.parametrize(
    ("dead", "heir", "vm"), [("alpha", "beta", "web"), ("beta", "alpha", "db")]
)
def test_each_takes_over_what_a_dead_worker_of_the_other_held(
    fleet: Fleet, dead: str, heir: str, vm: str
) -> None:
    victim, other = fleet.members[dead], fleet.members[heir]
    kill(exporting(victim, machine(victim, fleet, vm)))
    assert fleet.states()[vm] == "BACKUP_IN_PROGRESS"
    recovered = other.run("vmbackup-lock", "recover", dead)
    assert recovered.status == 0, recovered.stderr
    assert (fleet.states()[vm], fleet.record(vm).claim) == ("BACKUP_NECESSARY", None)
    assert len(fleet.copies(vm)) == 1
    assert not list(fleet.nas.rglob("*.partial.*"))


@pytest.fixture
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    made.end()


def test_the_older_finishes_what_the_present_one_was_publishing(
    tmp_path: Path, programs: Programs, first: Release
) -> None:
    """The other way round is
    `test_a_publication_that_was_killed_under_the_first_release_is_finished`.
    """
    world = World(tmp_path / "world", tmp_path / "elsewhere", programs)
    world.host.make_vm("web", mib=1, random_mib=0)
    world.initialise()
    give_format(world.state, "1.1")
    world.tick()
    use(world, "web")
    world.must("vmbackup-worker", "notifier")
    killed(world, "after", *INTENT)
    assert world.record("web").publishing
    fleet = Fleet(tmp_path, nas=world.nas)
    older = fleet.add(world.host, release=first)
    assert older.run("vmbackup-lock", "recover", "alpha").status == 0
    older.worker("database")
    assert (str(world.record("web").status), world.record("web").publishing) == ("CLEAN", None)
    assert len(fleet.copies("web")) == 2


def test_an_upgrade_waits_for_the_last_worker_of_the_older(
    fleet: Fleet, alpha: Member, beta: Member
) -> None:
    process = exporting(alpha, machine(alpha, fleet, "web"))
    for arguments in (["--dry-run"], []):
        refused = beta.admin("statedb", "upgrade", *arguments, expect=11)
        assert "an older program is at work: alpha." in refused.stderr
        assert "vmbackup-lock recover alpha" in refused.stderr
    assert formats(fleet) == ("1.1", "1.1")
    kill(process)
    assert beta.run("vmbackup-lock", "recover", "alpha").status == 0
    upgraded = beta.admin("statedb", "upgrade", "--json").json
    assert (upgraded["from"], upgraded["to"], upgraded["upgraded"]) == ("1.1", "2.0", True)
    assert formats(fleet) == ("2.0", "2.0")
    beta.worker("notifier")
    assert fleet.states() == {"db": "CLEAN", "web": "BACKUP_NECESSARY"}


@pytest.mark.parametrize("file", ["2.0", "1.1"], ids=["upgraded", "killed before the version file"])
def test_the_older_changes_nothing_of_a_database_that_was_upgraded(
    fleet: Fleet, alpha: Member, beta: Member, file: str
) -> None:
    """Each of its commands and workers ends with 1, says that the database is newer, and leaves
    every byte as it was.
    """
    beta.admin("statedb", "upgrade")
    give_format(fleet.nas / "vmstate", file, generation=False)
    before = contents(fleet.nas)
    for line, status, output in run_all(alpha, EVERYTHING):
        if file == "2.0" or not line.startswith(
            "admin log"
        ):  # which shows, for each generation, why it cannot
            assert (status, REFUSED in output) == (1, True), (line, output)
    assert contents(fleet.nas) == before


def run_all(member: Member, lines: list[str]) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _RUN_ALL],
        input=json.dumps(lines),
        env=member.environment,
        cwd=member.fleet.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_older_process_that_had_opened_the_database_is_stopped_when_it_commits(
    fleet: Fleet, alpha: Member, beta: Member
) -> None:
    """It has no row that an upgrade could wait for, only a heartbeat, which it removes itself."""
    program = [sys.executable, "-P", "-c", _WAITING, fleet.nas / "vmstate"]
    waiting = subprocess.Popen(
        program,
        env=alpha.environment,
        cwd=fleet.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout
    session = waiting.stdout.readline().strip()
    assert (fleet.nas / "vmstate" / "node" / session).exists()
    beta.admin("statedb", "upgrade")
    before = contents(fleet.nas)
    out, _ = waiting.communicate("now\n")
    assert REFUSED in out
    before.pop(str(fleet.nas / "vmstate" / "node" / session))
    assert contents(fleet.nas) == before
