"""The history in the model: bundles, those who make them, and what may not be lost."""

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from shared.state.store import bundling
from shared.state.store import history_operations as op
from shared.state.store.bundle import BundleName, unpack
from shared.state.store.header import Header
from shared.state.store.operations import Steps
from shared.state.store.snapshot import encode
from shared.state.store.state_files import StateFiles
from tests.protocol import nas
from tests.protocol.nas import Cost, World
from tests.protocol.process import Program
from tests.protocol.programs import REPOSITORY, WHEN, appender, pruner, start, told
from tests.protocol.search import Scenario


def with_history(count: int, **values: Any) -> World:
    """A database whose generations but the newest are in the history, each in a file."""
    data = [start().generations[0][1]]
    while len(data) <= count:
        before = nas.read(data[-1], len(data))
        header = Header(REPOSITORY, len(data) + 1, before.checksum, "s", len(data), "n", WHEN, "a")
        data.append(encode(header, before.contents))
    numbered = tuple(enumerate(data, 1))
    world = start()._replace(generations=numbered[-1:], chain=tuple(data), synced=count + 1)
    return world._replace(history=numbered[:-1], **values)


def bundler(name: str, size: int = 2, rounds: int = 1) -> Program:
    """Bundles the oldest generations, whenever it is its turn."""

    def program(files: StateFiles) -> Hashable:
        def bundle(turn: int) -> str:
            return told(lambda: files.run(bundling.bundle_oldest(WHEN, f"{name}{turn}", size)))

        return tuple(("bundle", bundle(turn)) for turn in range(rounds))

    return program


def nothing_is_lost(world: World, _: Sequence[Any]) -> str | None:
    """Each generation of the chain is somewhere, byte for byte."""
    kept = {**dict(world.generations), **dict(world.history)}
    for name, data in world.bundles:
        kept |= _unpacked(name, data)
    for number, data in enumerate(world.chain, 1):
        if kept.get(number) != data:
            return f"generation {number} is {'another one' if number in kept else 'lost'}"
    return None


@cache
def _unpacked(name: BundleName, data: bytes) -> dict[int, bytes]:
    try:
        return dict(unpack(name, data).generations())
    except ValueError:
        return {}


def removes_unsynced(
    _name: BundleName, digests: Mapping[int, bytes]
) -> Steps[tuple[int, list[int]]]:
    """Of a bundler that does not wait for the disk."""
    for number in digests:
        yield from op.RemoveHistoric(number)
    return len(digests), []


def removes_unread(name: BundleName, digests: Mapping[int, bytes]) -> Steps[tuple[int, list[int]]]:
    """Of a bundler that does not look at what it brought to the disk."""
    yield from op.SyncBundle(name)
    return (yield from removes_unsynced(name, digests))


_TWO: Final = (bundler("A", rounds=2), bundler("B", rounds=2))

SCENARIOS: Final = (
    Scenario(
        "two bundlers, one crash, the server's power is cut",
        _TWO,
        nothing_is_lost,
        with_history(4, power_cuts=1),
        crashes=1,
    ),
    Scenario(
        "two bundlers, one stale listing, one fault, one error",
        (bundler("A"), bundler("B")),
        nothing_is_lost,
        with_history(4),
        budget=Cost(1, 1, 1),
    ),
    Scenario(
        "a bundler beside pruning and a commit",
        (bundler("A", rounds=2), pruner(), appender("C")),
        nothing_is_lost,
        with_history(3),
        crashes=1,
        rules=nas.Rules(prunes=True),
    ),
)
POWER: Final = Scenario("unsynced", _TWO[:1], nothing_is_lost, with_history(4, power_cuts=1))
FAULTS: Final = Scenario("unread", _TWO[:1], nothing_is_lost, with_history(4), budget=Cost(fault=1))
