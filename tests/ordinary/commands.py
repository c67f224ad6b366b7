"""What is run: one axis of the table.

Each runs its command under the oracle and answers how it ended.
"""

from collections.abc import Callable, Mapping
from typing import Final

from tests.ordinary.histories import damage_generation, follow
from tests.ordinary.looking import Copy
from tests.ordinary.names import DB, WEB
from tests.ordinary.oracle import Step
from tests.ordinary.world import ADMIN, HOSTS, LOCK, World

ON_TRIAL: Final = "restored-by-the-test"


def _plain(*command: str, **may: bool) -> Callable[[World], int]:
    return lambda world: world.step(*command, **may).status


def _run(world: World) -> int:
    return max(world.tick(host)[-1] for host in HOSTS)


def _live(world: World) -> int:
    """A tick in which running VMs are backed up by snapshot and clone."""
    vm = world.vm(
        next(
            name
            for name in (WEB, DB)
            if any(vm.name == name for vm in world.look().vms["alpha"].values())
        )
    )
    world.backup.update(running="live", running_hours=0, live_when_stopped=True)
    world.configure(world.archive, *world.archives)
    vm.host.run("startvm", vm.uuid, "--type=headless")
    world.diary.use(vm.uuid)
    vm.wait_for_state("running")
    codes = world.tick(touches=frozenset({vm.uuid}))
    assert vm.info("VMState") == "running", world.story("the VM does not run any more")
    vm.stop()
    world.backup.clear()
    world.configure(world.archive, *world.archives)
    return codes[-1]


def _remove(world: World) -> int:
    """Each copy of the VM by name, the newest one first: the last one may not go."""
    status = 0
    view = world.look()
    for copy in reversed(world.diary.order(view.records.get(WEB, {}).get("uuid", ""), view.copies)):
        status = world.step(
            ADMIN, "remove", WEB, copy.stamp, "--yes", asked=frozenset({copy.stamp})
        ).status
    return status


def _restore(world: World) -> int:
    """On the other host; its disks are those of the newest copy."""
    expected = newest_of(world, WEB)
    ran = world.step(
        ADMIN, "restore", WEB, "--as", ON_TRIAL, host="beta", makes=frozenset({ON_TRIAL})
    )
    if ran.status == 0:
        got = world.look().vms["beta"][world.vm(ON_TRIAL, "beta").uuid].content
        meant = [expected] if expected else newest_without_a_record(world)
        assert meant, world.story("something was restored, and there was no copy")
        assert got in [world.diary.content(copy) for copy in meant], world.story(
            f"restored was not the newest copy, {meant[0].stamp}"
        )
    return ran.status


def newest_without_a_record(world: World) -> list[Copy]:
    """The newest good copy of each VM of which the database does not tell."""
    view = world.look()
    told = {record["uuid"] for record in view.records.values()}
    found = [world.diary.newest(uuid, view) for uuid in {copy.uuid for copy in view.copies} - told]
    return [copy for copy in found if copy is not None]


def newest_of(world: World, key: str) -> Copy | None:
    """The newest good copy of the VM that the database calls so."""
    view = world.look()
    record = view.records.get(key)
    return world.diary.newest(record["uuid"], view) if record else None


def _set_aside(world: World) -> int:
    """The newest generation is damaged; what the check says is done."""
    number = world.look().generation
    damage_generation(world, number)
    before = world.look()
    status = world.run(ADMIN, "statedb", "check", "--set-aside", str(number)).status
    follow(world)
    world.judge(before, Step("statedb check --set-aside", status, forgets=True))
    return status


COMMANDS: Final[Mapping[str, Callable[[World], int]]] = {
    "init": _plain(ADMIN, "init", "--lease-seconds", "10"),
    "run": _run,
    "run live": _live,
    "archive": _plain(ADMIN, "archive", WEB),
    "activate": _plain(ADMIN, "activate", DB),
    "forget": _plain(ADMIN, "forget", WEB),
    "prune": _plain(ADMIN, "prune", retains=True),
    "verify": _plain(ADMIN, "verify", "--all"),
    "restore": _restore,
    "rehearse": _plain(ADMIN, "rehearse", WEB),
    "remove": _remove,
    "recover": lambda world: world.step(LOCK, "recover", "alpha", host="beta").status,
    "set aside": _set_aside,
    "doctor": _plain(ADMIN, "doctor"),
}
