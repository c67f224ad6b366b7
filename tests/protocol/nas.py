"""A simulated NAS for the model checker.

A value, and for each operation every way in which it may go.

What clients may see wrongly follows docs/nas.md: a listing or a name that is cached from before, a
replaced file that still reads as the old one, a reply that is lost after the server did its work, a
request that the server executes long after it was reported failed; and the server's power may be
cut, after which only those names are sure to be there that were brought to its disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from shared.state.store import history_operations as history
from shared.state.store import operations as op
from shared.state.store.bundle import BundleName
from shared.state.store.readable_view import render
from shared.state.store.snapshot import Snapshot, decode

#: Stands for an answer that production turns into `NasError`.
REFUSED: Final = "refused"

#: The same, for an error that passes by itself: a stale handle, a server that is busy.
PASSING: Final = "ESTALE"


class World(NamedTuple):
    """All that is on the NAS, in the very bytes that production wrote."""

    generations: tuple[tuple[int, bytes], ...]
    history: tuple[tuple[int, bytes], ...] = ()
    #: Every generation that was published at the end of the chain, whether or not it was pruned
    #: since.
    chain: tuple[bytes, ...] = ()
    #: (process, name) and bytes of the private files.
    temporaries: tuple[tuple[tuple[int, str], bytes], ...] = ()
    view: bytes | None = None
    #: What `vmtool-statedb` ever held: a client may still read any of it.
    views: frozenset[bytes] = frozenset()
    kept: frozenset[bytes] = frozenset()
    lease: bytes | None = None
    #: Claim numbers whose copies have their final names.
    placed: tuple[int, ...] = ()
    #: Requests that were reported failed and may still be executed.
    pending: tuple["Pending", ...] = ()
    #: How often the server's power may still be cut. With none to come, it does not matter what is
    #: on its disk.
    power_cuts: int = 0
    #: The newest generation whose name is on the server's disk.
    synced: int = 1
    #: The bundles of the history, and those of them that are on the server's disk.
    bundles: tuple[tuple[BundleName, bytes], ...] = ()
    synced_bundles: frozenset[BundleName] = frozenset()


class Pending(NamedTuple):
    """A request in the network.

    `source` is the private file it works on, None once that can no longer be removed under it.
    """

    source: tuple[int, str] | None
    data: bytes
    number: int | None


class Cost(NamedTuple):
    """Which faults an outcome uses up."""

    stale: int = 0
    fault: int = 0
    error: int = 0


FREE: Final = Cost()
STALE: Final = Cost(stale=1)
FAULT: Final = Cost(fault=1)
ERROR: Final = Cost(error=1)

#: Generation numbers that a client knows: what a cached listing shows it. None where staleness is
#: not searched.
Cache = frozenset[int] | None


class Outcome(NamedTuple):
    """One way in which an operation goes."""

    note: str
    answer: Any
    world: World
    cache: Cache
    cost: Cost = FREE


@dataclass(frozen=True, slots=True)
class PlaceCopy:
    """The worker gives the files of a copy their final names."""

    claim: int


@dataclass(frozen=True, slots=True)
class EditView:
    """Somebody writes into `vmtool-statedb`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AcquireLease:
    """A holder creates the lease marker exclusively. Answers whether it could."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """A holder removes the marker if it is its own."""

    data: bytes


@dataclass(frozen=True)
class Rules:
    """What this NAS does. A mutant changes one of them."""

    #: A name in `gen/` is never replaced.
    refuses_to_replace: bool = True
    #: The protocol is told what the NAS answers to a publication. Production never is.
    answers_publication: bool = False
    #: Generations may be moved away: a name that was there may be gone.
    prunes: bool = False
    #: Bytes that were written are on the disk before the file gets its name.
    flushes: bool = True
    #: Some errors pass by themselves, and production tries again.
    passing: bool = False


def initial(first: bytes) -> World:
    """A new database."""
    view = render(read(first, 1).contents)
    return World(((1, first),), chain=(first,), view=view, views=frozenset({view}))


@cache
def read(data: bytes, number: int) -> Snapshot:
    """`decode`, once for each generation."""
    return decode(data, number)


def head(world: World) -> Snapshot:
    """The newest generation, as it truly is."""
    number, data = world.generations[-1]
    return read(data, number)


def land(world: World, number: int, data: bytes, rules: Rules) -> World:
    """A generation gets its name, if it may."""
    there = number in dict(world.generations)
    if there and rules.refuses_to_replace:
        return world
    generations = tuple(sorted({**dict(world.generations), number: data}.items()))
    chain = world.chain
    if number == len(chain) + 1:
        chain = (*chain, data)
    elif there:
        chain = (*chain[: number - 1], data, *chain[number:])
    return world._replace(generations=generations, chain=chain)


def execute(world: World, request: Pending, rules: Rules) -> World:
    """The server executes a delayed request."""
    world = world._replace(pending=_without(world.pending, request))
    if request.number is None:
        return _with_view(world, request.data)
    return land(world, request.number, request.data, rules)


def power_cut(world: World, rules: Rules) -> Iterator[World]:
    """What may be left when the server loses its power.

    It forgets names that were not synced, newest first, private ones as well.
    """
    newest = world.generations[-1][0]
    for last in range(min(world.synced, newest), newest + 1):
        generations = tuple(item for item in world.generations if item[0] <= last)
        if not rules.flushes:
            generations = (*generations[:-1], (generations[-1][0], b""))
        left = world._replace(
            generations=generations,
            chain=world.chain[:last],
            synced=last,
            power_cuts=world.power_cuts - 1,
        )
        bundles = tuple(item for item in world.bundles if item[0] in world.synced_bundles)
        left = left._replace(bundles=bundles)
        for view in sorted(world.views):
            yield left._replace(view=view)
            yield left._replace(view=view, temporaries=(), pending=())


def crash(world: World, process: int) -> World:
    """What is left when a process dies: nothing that others look at."""
    pending = tuple(
        request._replace(source=None) if _owner(request.source) == process else request
        for request in world.pending
    )
    temporaries = tuple(item for item in world.temporaries if item[0][0] != process)
    return world._replace(temporaries=temporaries, pending=tuple(sorted(pending, key=repr)))


def is_local(world: World, process: int, operation: Any, rules: Rules) -> bool:
    """Whether no other process could tell when this operation happens, so that only one order needs
    to be searched.
    """
    match operation:
        case op.Wait() | op.WriteTemporary() | op.ReadTemporary():
            return True
        case op.RemoveTemporary(name):
            return all(request.source != (process, name) for request in world.pending)
        case op.ReadGeneration(number):
            return (
                not rules.prunes
                and not world.power_cuts
                and rules.refuses_to_replace
                and number in dict(world.generations)
            )
        case op.SyncGeneration():
            return not rules.prunes and not world.power_cuts
    return False


def outcomes(
    world: World, process: int, operation: Any, cache: Cache, rules: Rules
) -> Iterator[Outcome]:
    """Every way in which `operation` may go."""
    match operation:
        case op.ListGenerations():
            yield from _list(world, cache)
        case op.ReadGeneration(number):
            yield from _read(world, number, cache)
        case op.PublishGeneration(name, number):
            yield from _publish(world, (process, name), number, cache, rules)
            return
        case op.ReadView():
            yield Outcome("", world.view, world, cache)
            for stale in sorted(world.views - {world.view}):
                yield Outcome("stale", stale, world, cache, STALE)
        case op.SyncGeneration(number):
            answer, after = _synced(world, number)
            yield Outcome("", answer, after, cache)
        case (
            op.Wait() | EditView()
        ):  # waiting cannot fail, and a person tries until the edit is written
            answer, after = (
                _effect(world, process, operation)
                if isinstance(operation, EditView)
                else (1.0, world)  # each wait takes a second
            )
            yield Outcome("", answer, after, cache)
            return
        case op.ReplaceView(name) if (process, name) not in dict(world.temporaries):
            yield Outcome("lost with the server's power", REFUSED, world, cache)
            return
        case _:
            yield from _change(world, process, operation, cache)
    yield Outcome("refused", REFUSED, world, cache, ERROR)
    if rules.passing:
        yield Outcome("ESTALE", PASSING, world, cache, ERROR)


_HISTORY: Final = (
    history.ListHistoric,
    history.ReadHistoric,
    history.ListBundles,
    history.PutBundle,
    history.SyncBundle,
    history.RemoveHistoric,
    history.SetHistoricAside,
)


def _of_history(world: World, operation: Any, cache: Cache) -> Iterator[Outcome]:
    match operation:
        case history.ListHistoric(count):
            yield Outcome("", tuple(number for number, _ in world.history[:count]), world, cache)
        case history.ReadHistoric(number):
            yield Outcome("", dict(world.history).get(number), world, cache)
        case history.ListBundles():
            yield Outcome("", tuple(name for name, _ in world.bundles), world, cache)
            if world.bundles:
                yield Outcome("stale: none", (), world, cache, STALE)
        case history.PutBundle(name, data):
            yield Outcome("", None, _with_bundle(world, name, data), cache)
            yield Outcome("it is torn", None, _with_bundle(world, name, data[:-9]), cache, FAULT)
            after = _with_bundle(world, name, data)
            yield Outcome("done, but reported as refused", REFUSED, after, cache, ERROR)
        case history.SyncBundle(name):
            found = dict(world.bundles).get(name)
            synced = world.synced_bundles | ({name} if found is not None else set())
            yield Outcome("", found, world._replace(synced_bundles=synced), cache)
        case history.RemoveHistoric(number) | history.SetHistoricAside(number):
            rest = tuple(item for item in world.history if item[0] != number)
            yield Outcome("", None, world._replace(history=rest), cache)


def _with_bundle(world: World, name: BundleName, data: bytes) -> World:
    bundles = tuple(sorted({**dict(world.bundles), name: data}.items()))
    return world._replace(bundles=bundles, synced_bundles=world.synced_bundles - {name})


def _list(world: World, cache: Cache) -> Iterator[Outcome]:
    now = frozenset(number for number, _ in world.generations)
    yield Outcome("", tuple(sorted(now)), world, None if cache is None else now)
    if cache is not None and cache != now:
        yield Outcome("stale", tuple(sorted(cache)), world, cache, STALE)


def _read(world: World, number: int, cache: Cache) -> Iterator[Outcome]:
    data = dict(world.generations).get(number)
    if cache is None:
        yield Outcome("", data, world, cache)
        return
    yield Outcome("", data, world, cache | {number} if data is not None else cache - {number})
    if data is not None and number not in cache:
        yield Outcome("stale: no such name", None, world, cache, STALE)


def _publish(
    world: World, source: tuple[int, str], number: int, cache: Cache, rules: Rules
) -> Iterator[Outcome]:
    def answer(text: str) -> str | None:
        return text if rules.answers_publication else None

    there = number in dict(world.generations)
    data = dict(world.temporaries).get(source)
    if data is None:
        yield Outcome("lost with the server's power", answer("error"), world, cache)
        return
    landed = land(world, number, data, rules)
    known = None if cache is None else frozenset(known for known, _ in landed.generations)
    yield Outcome(
        "exists" if there else "done", answer("exists" if there else "done"), landed, known
    )
    if there:
        yield Outcome("exists, but reported as done", answer("done"), landed, known, FAULT)
    else:
        yield Outcome("done, but reported as existing", answer("exists"), landed, cache, FAULT)
        yield Outcome("failed", answer("error"), world, cache, FAULT)
    if not there or rules.prunes:
        request = Pending(source, data, number)
        yield Outcome(
            "failed, but delayed in the network",
            answer("error"),
            _delayed(world, request),
            cache,
            FAULT,
        )


def _change(world: World, process: int, operation: Any, cache: Cache) -> Iterator[Outcome]:
    if isinstance(operation, _HISTORY):
        yield from _of_history(world, operation, cache)
        return
    answer, after = _effect(world, process, operation)
    yield Outcome("", answer, after, cache)
    if after != world:
        yield Outcome("done, but reported as refused", REFUSED, after, cache, ERROR)
    if isinstance(operation, op.ReplaceView):
        data = dict(world.temporaries)[process, operation.name]
        later = _delayed(world, Pending(None, data, None))
        yield Outcome(
            "refused, but delayed in the network", REFUSED, later, cache, Cost(fault=1, error=1)
        )


def _effect(world: World, process: int, operation: Any) -> tuple[Any, World]:
    """The answer to an operation that changes something, and the world after it."""
    match operation:
        case op.KeepEditedView(_, data):
            return None, world._replace(kept=world.kept | {data})
        case op.MoveToHistory(number):
            return None, _moved_to_history(world, number)
        case PlaceCopy(claim):
            return None, world._replace(placed=(*world.placed, claim))
        case EditView(data):
            return None, _with_view(world, data)
        case op.WriteTemporary() | op.ReadTemporary() | op.RemoveTemporary() | op.ReplaceView():
            return _temporary_effect(world, process, operation)
    return _lease_effect(world, process, operation)


def _temporary_effect(world: World, process: int, operation: Any) -> tuple[Any, World]:
    temporaries = dict(world.temporaries)
    source = (process, operation.name)
    match operation:
        case op.WriteTemporary(_, data):
            return None, _with(_orphaned(world, source), {**temporaries, source: data})
        case op.ReadTemporary():
            return temporaries.get(source), world
        case op.RemoveTemporary():
            temporaries.pop(source, None)
            rest = tuple(request for request in world.pending if request.source != source)
            return None, _with(world._replace(pending=rest), temporaries)
    data = temporaries.pop(source)
    return None, _with(_with_view(world, data), temporaries)


def _lease_effect(world: World, process: int, operation: Any) -> tuple[Any, World]:
    temporaries = dict(world.temporaries)
    match operation:
        case op.ReadLease():
            return (None if world.lease is None else (world.lease, 0)), world
        case op.TakeLeaseAside(name):
            if world.lease is None:
                return None, world
            return None, _with(
                world._replace(lease=None), {**temporaries, (process, name): world.lease}
            )
        case op.PutLeaseBack(name):
            return None, world._replace(
                lease=temporaries[process, name] if world.lease is None else world.lease
            )
        case AcquireLease(data):
            return world.lease is None, (
                world._replace(lease=data) if world.lease is None else world
            )
        case ReleaseLease(data):
            return None, (world._replace(lease=None) if world.lease == data else world)
    raise AssertionError(operation)


def _synced(world: World, number: int) -> tuple[bytes | None, World]:
    data = dict(world.generations).get(number)
    if data is None:
        return None, world
    return data, world._replace(synced=max(world.synced, number)) if world.power_cuts else world


def _moved_to_history(world: World, number: int) -> World:
    generations = dict(world.generations)
    data = generations.pop(number, None)
    if data is None:
        return world
    history = (
        world.history
        if number in dict(world.history)
        else tuple(sorted((*world.history, (number, data))))
    )
    return world._replace(generations=tuple(sorted(generations.items())), history=history)


def _with_view(world: World, data: bytes) -> World:
    return world._replace(view=data, views=world.views | {data})


def _with(world: World, temporaries: dict[tuple[int, str], bytes]) -> World:
    return world._replace(temporaries=tuple(sorted(temporaries.items())))


def _delayed(world: World, request: Pending) -> World:
    return world._replace(pending=tuple(sorted((*world.pending, request), key=repr)))


def _orphaned(world: World, source: tuple[int, str]) -> World:
    """A private name that is used again belongs to another file.

    A request on the old one can no longer be withdrawn.
    """
    pending = (
        request._replace(source=None) if request.source == source else request
        for request in world.pending
    )
    return world._replace(pending=tuple(sorted(pending, key=repr)))


def _without(pending: tuple[Pending, ...], request: Pending) -> tuple[Pending, ...]:
    rest = list(pending)
    rest.remove(request)
    return tuple(rest)


def _owner(source: tuple[int, str] | None) -> int | None:
    return None if source is None else source[0]
