"""What is interrupted.

For each program that writes to the NAS a state to start from, the command, and how all must end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from subprocess import run
from typing import Any, Final

from shared.state.formats import NEWEST
from shared.state.store import inspection
from tests.crash.doors import Kill, Moment, Point
from tests.crash.promises import good_stamps, set_aside
from tests.crash.world import KILLED, World
from tests.support.formats import give_format
from tests.support.packages import require
from tests.support.simulated import SimulatedVm

#: In a command: a directory of the host, below which each write is a crash point, too.
ELSEWHERE: Final = "ELSEWHERE"
#: In a command: the stamp of the VM's last copy.
STAMP: Final = "STAMP"
#: In a command: the stamp of the VM's oldest copy.
OLDEST: Final = "OLDEST"
WORKER, ADMIN, LOCK = "vmbackup-worker", "vmbackup-admin", "vmbackup-lock"
VM: Final = "web01"


@dataclass(frozen=True)
class Scenario:
    """A command that is interrupted at each of its crash points.

    `repeat`: the exit codes with which an operator's command may end when it is given again after
    the crash; empty: cron's ticks alone must put everything right. `states`: how the VMs must end.
    `every`: of its points the quick run takes one in so many.
    """

    name: str
    command: tuple[str, ...]
    prepare: Callable[[World], None]
    states: Mapping[str, str]
    repeat: tuple[int, ...] = ()
    every: int = 8
    settings: Mapping[str, Any] = field(default_factory=dict)
    backup: Mapping[str, Any] = field(default_factory=dict)
    archive: str = "archive"
    keep: int = 2
    #: Directories of copies that belong to no VM any more.
    orphans: frozenset[str] = frozenset()
    settled: Callable[[World], None] = lambda _world: None
    #: Looks at what a kill has left, before anything is put right.
    at_once: Callable[[World], None] = lambda _world: None
    #: Ends what goes on when the command was killed: before the world is put back.
    ended: Callable[[World], None] = lambda _world: None
    #: Puts right what names files by more than their path: after the world was put back.
    put_back: Callable[[World], None] = lambda _world: None
    #: What the command has done when nothing interrupts it.
    achieved: Callable[[World], None] = lambda _world: None


def found(world: World) -> None:
    """A database, and a VM that it knows."""
    world.host.make_vm(VM)
    world.initialise()
    world.must(WORKER, "vmfind")


def machine(world: World) -> SimulatedVm:
    return SimulatedVm(world.host, world.record(VM).uuid, VM)


def new(world: World) -> None:
    """A host with a VM; the NAS is empty."""
    world.host.make_vm(VM)


def unknown(world: World) -> None:
    """A database that knows nothing."""
    new(world)
    world.initialise()


def use(world: World) -> None:
    """The VM is used and stopped."""
    machine(world).start()
    machine(world).stop()


def copies(count: int) -> Callable[[World], None]:
    """A VM that is clean, with so many copies."""

    def prepare(world: World) -> None:
        name = f"{count} copies, archive {world.archive.replace('/', '-')}"
        if world.recall(name):
            return
        (copies(count - 1) if count > 1 else found)(world)
        use(world)
        world.tick()
        assert world.record(VM).last_copy
        world.remember(name)

    return prepare


def due(world: World) -> None:
    """Two copies, and the third is due: the first one goes when it is there."""
    copies(2)(world)
    use(world)
    world.must(WORKER, "notifier")


def overdue(world: World) -> None:
    """The VM waits for its copy for too long, and somebody is to be told who does not answer."""
    due(world)
    world.target = "json://127.0.0.1:1/"
    world.configure()


def runs(world: World) -> None:
    """Two copies; the VM runs, and its backup is due all the same."""
    copies(2)(world)
    machine(world).start()
    world.configure(running_hours=0)
    world.must(WORKER, "notifier")
    world.must(WORKER, "notifier")
    world.configure(running_hours=24)


def still_runs(world: World) -> None:
    """The VM is as its backup found it."""
    vm = machine(world)
    assert vm.info("VMState") == "running", vm.info("VMState")
    assert (
        "does not have any snapshots"
        in world.host.run("snapshot", vm.uuid, "list", check=False).stdout
    )
    assert world.host.run("list", "vms").stdout.count("{") == 1
    world.must(WORKER, "notifier")


def interrupted(
    prepare: Callable[[World], None], command: tuple[str, ...], moment: Moment, *parts: str
) -> Callable[[World], None]:
    """What is left when a command was killed at the first of its points that has all these parts in
    its name.
    """

    def then(world: World) -> None:
        prepare(world)
        world.remember("before it is interrupted")
        points = world.run(*command).points
        world.recall("before it is interrupted")
        point = next(point for point in points if all(part in point.name for part in parts))
        assert (
            world.run(*command, kill=Kill(Point(point.name, point.occurrence), moment)).status
            == KILLED
        )

    return then


def gone(world: World) -> None:
    """A VM with copies that is not on its host any more."""
    copies(1)(world)
    world.host.run("unregistervm", world.record(VM).uuid)
    world.must(WORKER, "vmfind")


def forgotten(world: World) -> None:
    """Two copies of a VM that is gone and has no record any more."""
    copies(2)(world)
    world.host.run("unregistervm", world.record(VM).uuid)
    world.must(ADMIN, "forget", VM)


def edited(world: World) -> None:
    """Somebody has written into vmtool-statedb."""
    copies(1)(world)
    (world.state / "vmtool-statedb").write_text(
        f"{VM}:RUNNING\n", encoding="utf-8"
    )  # it was never that


def old_version(world: World) -> None:
    """A database of version 1.0."""
    world.host.make_vm(VM)
    world.state.mkdir()
    (world.state / "vmtool-db-version").write_text(
        "TOOL_VERSION: 1.0\nDB_VERSION: 1.0\n", encoding="utf-8"
    )
    (world.state / "vmtool-statedb").write_text(f"{VM}:CLEAN\n", encoding="utf-8")


def first_format(world: World) -> None:
    """A database that was made by program 0.1, and a VM that is clean."""
    unknown(world)
    give_format(world.state, "1.1")
    world.tick()
    assert world.head().contents.format == "1.1"


def upgraded(world: World) -> None:
    """It is in the newest format, and the version file says so."""
    assert world.head().contents.format == NEWEST
    assert f"DB_VERSION: {NEWEST}\n" in (world.state / "vmtool-db-version").read_text(
        encoding="utf-8"
    )


#: So few generations are in a bundle.
BUNDLES: Final = {"shared.state.store.bundling.BUNDLE_SIZE": 4}
_MOVES: Final = {"worker.database.KEEP_GENERATIONS": 3, "worker.database.PRUNE_SLACK": 0}


def historic(world: World) -> None:
    """Most generations are in the history, each in a file of its own."""
    copies(2)(world)
    world.must(WORKER, "database", settings=_MOVES)


def aged(world: World) -> None:
    """They are in bundles, of which the first is old."""
    historic(world)
    world.must(WORKER, "database", settings=BUNDLES)
    names = sorted(path.name for path in (world.state / "history").glob("*.gz"))
    assert len(names) > 1
    numbers, _, digest, suffix = names[0].split(".")
    old = f"{numbers}.20010101T000000Z.{digest}.{suffix}"
    (world.state / "history" / names[0]).rename(world.state / "history" / old)


def nothing_forgotten(world: World) -> None:
    """Each generation since the first is kept, byte for byte: the chain of checksums holds."""
    found = inspection.inspect(world.state)
    assert (found.oldest, found.generations) == (1, found.newest), found
    assert not [finding for finding in found.findings if not finding.harmless], found.findings


def forgotten_on_purpose(world: World) -> None:
    """What is old is gone, an anchor says that, and the rest is there."""
    found = inspection.inspect(world.state)
    assert found.anchor is not None
    assert (found.anchor.number, found.oldest) == (4, 5), found
    assert found.generations == found.newest - 4, found


def unreadable(world: World) -> None:
    """A VM with two copies; every generation of the database is cut off."""
    copies(2)(world)
    for path in (world.state / "gen").iterdir():
        path.chmod(0o640)
        path.write_bytes(path.read_bytes()[:-70])


def one_is_set_aside(world: World) -> None:
    """What could not be read is there, whole, once."""
    (aside,) = set_aside(world)
    names = {"gen", "history", "node", "tmp", "vmtool-db-version", "vmtool-statedb"}
    assert {path.name for path in aside.iterdir()} == names


def archived(world: World) -> None:
    """An archived VM with two copies."""
    copies(2)(world)
    world.must(ADMIN, "archive", VM)


def pinned(world: World) -> None:
    """A VM with two copies, of which the newest is pinned."""
    copies(2)(world)
    world.must(*resolved(world, (ADMIN, "pin", VM, STAMP)))


def too_many(world: World) -> None:
    """Three copies, and rules that now keep two."""
    copies(3)(world)
    world.configure(keep_last=2)


def pruned(world: World) -> None:
    """The small files of a copy whose removal was interrupted go with the VM's next backup, or when
    it is pruned again.
    """
    world.must(ADMIN, "prune", VM)


def removed(world: World) -> None:
    """The copy goes with all its files when the command is given once more, should its VM have been
    held by the dead one. If its `.ova` has gone, the small files beside that go at the next backup
    or `prune`.
    """
    if len(good_stamps(world)[VM]) > 1:
        world.must(*resolved(world, (ADMIN, "remove", VM, OLDEST, "--yes")))
    else:
        world.must(ADMIN, "prune", VM)
    stamps = {
        path.name.partition(".")[0] for path in (world.nas / VM).iterdir() if "Z-" in path.name
    }
    assert stamps == good_stamps(world)[VM], stamps
    assert len(stamps) == 1, stamps


def nothing_rehearsed(world: World) -> None:
    """Nothing of a rehearsal is left in VirtualBox: it clears away what an earlier one has left."""
    world.must(ADMIN, "rehearse", VM)
    assert world.host.run("list", "vms").stdout.count("{") == 1
    world.must(WORKER, "database")


def rehearsed(world: World) -> None:
    """The newest copy was rehearsed: it was not put off."""
    record = world.record(VM)
    assert record.last_copy is not None
    assert record.rehearsed is not None
    assert (record.rehearsed.result, record.rehearsed.stamp) == ("good", record.last_copy.stamp)


def restored(world: World) -> None:
    """The restored VM is there once; only that may not be in the log."""
    assert world.host.run("list", "vms").stdout.count('"restored"') == 1


def unpackable(world: World) -> None:
    """A VM with one copy, whose disk is a real one; restores unpack it without an import."""
    world.notes_count = True
    if world.recall("a copy of a real disk"):
        return
    world.host.make_vm(VM, mib=6, random_mib=3)
    world.initialise()
    world.must(WORKER, "vmfind")
    use(world)
    world.tick()
    world.remember("a copy of a real disk")


def unpacked(world: World) -> None:
    """The restored VM is there once, with the disk of the other; nothing else is."""
    restored(world)
    require("qemu-img", "qemu-utils")
    (folder,) = (world.elsewhere / "vms").iterdir()
    (image,) = folder.glob("*.vdi")
    assert folder.name == "restored", folder
    run(["qemu-img", "compare", machine(world).disk, image], check=True, capture_output=True)
    assert not list((world.host.folder.parent.parent / "state").glob("*restore*"))


def nothing_tried_out(world: World) -> None:
    """The next examination clears away what an interrupted one has left."""
    world.must(ADMIN, "doctor", statuses=(0, 1))


def resolved(world: World, command: tuple[str, ...]) -> tuple[str, ...]:
    """A command with what is known only when the VM has copies."""
    known = {ELSEWHERE: str(world.elsewhere / "vms")}
    if STAMP in command or OLDEST in command:
        stamps = sorted(good_stamps(world)[VM], key=lambda stamp: int(stamp.rpartition("-")[2]))
        known |= {STAMP: stamps[-1], OLDEST: stamps[0]}
    return tuple(known.get(word, word) for word in command)


_INTENT: Final = ("link vmstate/gen", "publish.intend")
_ARCHIVING: Final = ("rename archive", "transfer.write_sidecar")

SCENARIOS: Final = (
    Scenario("init", (ADMIN, "init", "--lease-seconds", "10"), new, {VM: "CLEAN"}, (0, 11)),
    Scenario("vmfind", (WORKER, "vmfind"), unknown, {VM: "CLEAN"}),
    Scenario("notifier", (WORKER, "notifier"), found, {VM: "CLEAN"}),
    Scenario("backup", (WORKER, "backup"), due, {VM: "CLEAN"}, every=20),
    Scenario(
        "backup, parallel engine",
        (WORKER, "backup"),
        due,
        {VM: "CLEAN"},
        every=60,
        backup={"engine": "parallel"},
    ),
    Scenario(
        "backup, saved meanwhile",
        (WORKER, "backup"),
        runs,
        {VM: "RUNNING"},
        every=60,
        backup={"running": "savestate"},
        settled=still_runs,
    ),
    Scenario(
        "backup, live",
        (WORKER, "backup"),
        runs,
        {VM: "RUNNING"},
        every=60,
        backup={"running": "live"},
        settled=still_runs,
    ),
    Scenario(
        "database: a publication is finished",
        (WORKER, "database"),
        interrupted(due, (WORKER, "backup"), "after", *_INTENT),
        {VM: "CLEAN"},
        every=8,
    ),
    Scenario(
        "database: a dead export is cleared away",
        (WORKER, "database"),
        interrupted(due, (WORKER, "backup"), "before", *_INTENT),
        {VM: "CLEAN"},
        every=20,
    ),
    Scenario(
        "database: a dead holder's lease is broken",
        (WORKER, "database"),
        interrupted(due, (WORKER, "backup"), "after", "write vmstate/vmtool-dblock"),
        {VM: "CLEAN"},
        every=2,
    ),
    Scenario(
        "database: generations move to the history",
        (WORKER, "database"),
        copies(2),
        {VM: "CLEAN"},
        every=20,
        settings={"worker.database.KEEP_GENERATIONS": 3, "worker.database.PRUNE_SLACK": 0},
    ),
    Scenario(
        "database: old generations are bundled",
        (WORKER, "database"),
        historic,
        {VM: "CLEAN"},
        every=6,
        settings=BUNDLES,
        settled=nothing_forgotten,
    ),
    Scenario(
        "database: old bundles go",
        (WORKER, "database"),
        aged,
        {VM: "CLEAN"},
        every=3,
        settled=forgotten_on_purpose,
    ),
    Scenario(
        "database: an archive is finished",
        (WORKER, "database"),
        interrupted(copies(2), (ADMIN, "archive", VM), "after", *_ARCHIVING),
        {VM: "ARCHIVED"},
    ),
    Scenario(
        "verify",
        (WORKER, "verify"),
        copies(2),
        {VM: "CLEAN"},
        every=20,
        backup={"verify_days": 1e-6},
    ),
    Scenario(
        "tell",
        (WORKER, "tell"),
        overdue,
        {VM: "CLEAN"},
        every=16,
        backup={"max_age_hours": 1e-6},
    ),
    Scenario("archive", (ADMIN, "archive", VM), copies(2), {VM: "ARCHIVED"}, (0, 11, 15), every=8),
    Scenario("activate", (ADMIN, "activate", VM), archived, {VM: "CLEAN"}, (0, 11, 15), every=20),
    Scenario(
        "archive elsewhere",
        (ADMIN, "archive", VM),
        copies(2),
        {VM: "ARCHIVED"},
        (0, 11, 15),
        every=20,
        archive="elsewhere",
    ),
    Scenario(
        "activate from elsewhere",
        (ADMIN, "activate", VM),
        archived,
        {VM: "CLEAN"},
        (0, 11, 15),
        every=48,
        archive="elsewhere",
    ),
    Scenario("forget", (ADMIN, "forget", VM), gone, {}, (0, 2), orphans=frozenset({VM})),
    Scenario("verify by hand", (ADMIN, "verify", VM), copies(2), {VM: "CLEAN"}, (0, 11)),
    Scenario("adopt an edit", (ADMIN, "statedb", "adopt"), edited, {VM: "CLEAN"}, (0, 2), every=16),
    Scenario(
        "migrate",
        (ADMIN, "statedb", "migrate", "--lease-seconds", "10"),
        old_version,
        {VM: "CLEAN"},
        (0, 10),
        every=20,
    ),
    Scenario(
        "upgrade",
        (ADMIN, "statedb", "upgrade"),
        first_format,
        {VM: "CLEAN"},
        (0,),
        every=8,
        settled=upgraded,
    ),
    Scenario(
        "rebuild",
        (ADMIN, "statedb", "rebuild", "--lease-seconds", "10"),
        unreadable,
        {VM: "CLEAN"},
        (0, 11),
        every=16,
        settled=one_is_set_aside,
    ),
    Scenario(
        "recover by hand",
        (LOCK, "recover", "alpha"),
        interrupted(due, (WORKER, "backup"), "before", *_INTENT),
        {VM: "CLEAN"},
        (0,),
        every=40,
    ),
    Scenario(
        "break a dead holder's lease by hand",
        (LOCK, "break", "database"),
        interrupted(due, (WORKER, "backup"), "after", "write vmstate/vmtool-dblock"),
        {VM: "CLEAN"},
        (0, 2),
        every=8,
    ),
    Scenario("who holds what", (LOCK, "list"), copies(1), {VM: "CLEAN"}, (0,), every=1),
    Scenario("pin", (ADMIN, "pin", VM, STAMP), copies(2), {VM: "CLEAN"}, (0, 11), every=40),
    Scenario(
        "pin a copy without a record",
        (ADMIN, "pin", VM, OLDEST),
        forgotten,
        {},
        (0, 11),
        every=24,
        orphans=frozenset({VM}),
    ),
    Scenario(
        "archive copies without a record",
        (ADMIN, "archive", VM),
        forgotten,
        {VM: "ARCHIVED"},
        (0, 11, 15),
        every=24,
    ),
    Scenario("unpin", (ADMIN, "unpin", VM, STAMP), pinned, {VM: "CLEAN"}, (0, 11), every=40),
    Scenario(
        "prune",
        (ADMIN, "prune", VM),
        too_many,
        {VM: "CLEAN"},
        (0, 11),
        every=32,
        backup={"keep_last": 3},
        settled=pruned,
    ),
    Scenario(
        "remove",
        (ADMIN, "remove", VM, OLDEST, "--yes"),
        copies(2),
        {VM: "CLEAN"},
        (0, 2, 11),
        every=32,
        keep=1,
        settled=removed,
    ),
    Scenario(
        "rehearse",
        (ADMIN, "rehearse", VM, "--boot", "--wait", "1"),
        copies(2),
        {VM: "CLEAN"},
        (0, 11),
        every=60,
        settled=nothing_rehearsed,
    ),
    Scenario(
        "rehearse by schedule",
        (WORKER, "verify"),
        copies(2),
        {VM: "CLEAN"},
        every=120,
        backup={"rehearse_days": 30, "rehearse_seconds": 1},
        settings={  # whatever else runs on the machine of the tests
            "worker.rehearsals.SPARE_BYTES": -(1 << 50),
            "worker.rehearsals.SPARE_MEMORY": -(1 << 50),
        },
        achieved=rehearsed,
        settled=nothing_rehearsed,
    ),
    Scenario(
        "restore",
        (ADMIN, "restore", VM, "--as", "restored"),
        copies(1),
        {VM: "CLEAN", "restored": "CLEAN"},
        (2,),
        every=16,
        settled=restored,
    ),
    Scenario(
        "restore, unpacked",
        (ADMIN, "restore", VM, "--as", "restored", "--to", ELSEWHERE),
        unpackable,
        {VM: "CLEAN", "restored": "CLEAN"},
        (0, 2),
        every=16,
        settings={"shared.ova.unpacking.THREADS_LIMIT": 1},
        backup={"engine": "parallel"},
        settled=unpacked,
    ),
    Scenario(
        "doctor",
        (ADMIN, "doctor"),
        copies(1),
        {VM: "CLEAN"},
        (0, 1),
        every=40,
        settled=nothing_tried_out,
    ),
)
