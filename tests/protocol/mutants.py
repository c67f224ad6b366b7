"""The protocol with one rule broken at a time.

Each is caught by the search: the rules are needed, and the search can fail.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

import pytest

from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import backup
from shared.state.rules import claims as claims_rules
from shared.state.sessions.session import Session
from shared.state.store import bundling, lease, protocol, readable_view
from shared.state.store.operations import (
    KeepEditedView,
    PublishGeneration,
    ReadGeneration,
    ReadView,
    RemoveTemporary,
    ReplaceView,
    Steps,
    SyncGeneration,
    TakeLeaseAside,
    WriteTemporary,
)
from shared.state.store.protocol import Author, Change
from shared.state.store.readable_view import render
from shared.state.store.snapshot import Snapshot, encode
from shared.state.store.state_files import StateFiles
from tests.protocol import bundles, claims, upgrades
from tests.protocol import lease as leases
from tests.protocol.nas import Cost, Rules, read
from tests.protocol.process import Program
from tests.protocol.programs import (
    all_of,
    answers_are_true,
    append,
    appender,
    chain_grows,
    each_once,
    expirer,
    head_is_whole,
    never_twice,
    nobody_is_alarmed,
    pruner,
    start,
    told,
    transact_as,
    view_is_current,
)
from tests.protocol.search import Scenario

LOG: Final = all_of(each_once, answers_are_true)
CLAIMS: Final = all_of(answers_are_true, claims.copies_are_announced, claims.next_tick_recovers)
Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """What is broken, how, and the scenario in which that shows."""

    name: str
    scenario: Scenario
    breaks: Callable[[Patch], None] = lambda _: None


# Committing


def _believes(author: Author, change: Change, *, done: bool, exists: bool) -> Steps[Snapshot]:
    """Takes the NAS at its word when it says that a publication was done, or that it was not."""
    for attempt in count():
        head = yield from protocol.read_head()
        row = head.contents.sessions.get(author.record.id)
        if not exists and row is not None and row.sequence >= author.sequence:
            return head
        answer = yield from _publish(author, head, change(head.contents), attempt)
        if done and answer == "done":
            return (yield from protocol.read_head())
    raise AssertionError


def _publish(author: Author, head: Snapshot, contents: Contents, attempt: int) -> Steps[Any]:
    row = replace(author.record, sequence=author.sequence, generation=head.generation + 1)
    header = replace(
        head.header,
        generation=head.generation + 1,
        previous=head.checksum,
        session=row.id,
        sequence=row.sequence,
    )
    name = f"{author.record.id}.{author.sequence}.{attempt}"
    yield WriteTemporary(name, encode(header, contents.with_session(row)))
    answer = yield PublishGeneration(name, head.generation + 1)
    yield RemoveTemporary(name)
    return answer


def _believe(*, done: bool, exists: bool) -> Callable[[Patch], None]:
    def breaks(patch: Patch) -> None:
        patch.setattr(
            protocol,
            "transact",
            lambda author, change: _believes(author, change, done=done, exists=exists),
        )

    return breaks


def _not_run_again(author: Author, change: Change) -> Steps[Snapshot]:
    """Publishes what it made of the first head it read, also after a lost race."""
    contents: Contents | None = None
    for attempt in count():
        head = yield from protocol.read_head()
        row = head.contents.sessions.get(author.record.id)
        if row is not None and row.sequence >= author.sequence:
            return head
        contents = contents or change(head.contents)
        yield from _publish(author, head, contents, attempt)
    raise AssertionError


def _syncs_a_name(head: Snapshot) -> Steps[bool]:
    return (yield SyncGeneration(head.generation)) is not None


def _unsynced(*, own: bool) -> Callable[[Patch], None]:
    """Does not bring to the disk what is answered (its own generation), or what is built upon."""
    original = protocol.transact

    def transact(author: Author, change: Change) -> Steps[Snapshot]:
        steps = original(author, change)
        found: dict[int, bytes] = {}
        try:
            operation = next(steps)
            while True:
                skipped = isinstance(operation, SyncGeneration) and own == _contains(
                    found[operation.number], operation.number, author
                )
                answer = found[operation.number] if skipped else (yield operation)
                if isinstance(operation, ReadGeneration) and answer is not None:
                    found[operation.number] = answer
                operation = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    return lambda patch: patch.setattr(protocol, "transact", transact)


def _contains(data: bytes, number: int, author: Author) -> bool:
    row = read(data, number).contents.sessions.get(author.record.id)
    return row is not None and row.sequence >= author.sequence


def _no_fence(patch: Patch) -> None:
    patch.setattr(protocol, "_require_live", lambda author, row: None)


def _fence_by_number(patch: Patch) -> None:
    original = protocol._require_live
    patch.setattr(
        protocol,
        "_require_live",
        lambda author, row: original(replace(author, known=author.sequence > 1), row),
    )


def _no_tombstones(patch: Patch) -> None:
    def forget(contents: Contents, number: int) -> Contents:
        return replace(
            contents,
            sessions={name: row for name, row in contents.sessions.items() if row.state == "live"},
        )

    patch.setattr(protocol, "_forget_old_sessions", forget)


def _reuses_numbers(session: str) -> Program:
    """A session that gives the number of a transaction that failed to the next one."""

    def program(files: StateFiles) -> Hashable:
        sequence, answers = 1, []
        for transaction in (1, 2):
            change = append(f"<{session}{transaction}>")
            answer = told(
                lambda number=sequence, change=change: transact_as(files, session, number, change)
            )
            answers.append(((session, transaction), answer))
            sequence += answer == "done"
        return tuple(answers)

    return program


# The view


def _view_without_second_look(name: str) -> Steps[bool]:
    head = yield from protocol.read_head()
    yield WriteTemporary(f"{name}.view", render(head.contents))
    yield ReplaceView(f"{name}.view")
    return False


def _view_believed(name: str) -> Steps[bool]:
    """Writes until it reads back what belongs to the head."""
    for attempt in count():
        head = yield from protocol.read_head()
        if (yield ReadView()) == render(head.contents):
            return False
        yield WriteTemporary(f"{name}.view.{attempt}", render(head.contents))
        yield ReplaceView(f"{name}.view.{attempt}")
    raise AssertionError


def _head_before_view() -> Steps[bool | None]:
    head = yield from protocol.read_head()
    found = yield ReadView()
    if found == render(head.contents):
        return None
    if found is None or (yield from readable_view._is_older_view(found, head)):
        return False
    yield KeepEditedView(head.generation, found)
    return True


def _trusts_the_listing(head: Snapshot) -> Steps[Snapshot]:
    return head
    yield


# Claims


def _claims_unchecked(patch: Patch) -> None:
    patch.setattr(claims_rules, "held", lambda contents, key, own: contents.vms[key])


def _expiry_keeps_claims(patch: Patch) -> None:
    patch.setattr(claims_rules, "abandoned", lambda record, *_, **__: record)


def _expiry_drops_intents(patch: Patch) -> None:
    original = claims_rules.abandoned

    def freed(record: VmRecord, reason: str, when: str, *, failed: bool = True) -> VmRecord:
        return original(replace(record, publishing=None), reason, when, failed=failed)

    patch.setattr(claims_rules, "abandoned", freed)


def _published_without_intent(patch: Patch) -> None:
    def published(contents: Contents, key: str, own: Any) -> Contents:
        return contents.with_vm(
            replace(
                claims_rules.held(contents, key, own), status="CLEAN", claim=None, publishing=None
            )
        )

    patch.setattr(backup, "published", published)


def _session_forgets_what_it_committed(patch: Patch) -> None:
    original = Session._commit

    def commit(self: Session, *arguments: Any) -> Snapshot:
        self.sequence = 0
        return original(self, *arguments)

    patch.setattr(Session, "_commit", commit)


# The lease


def _break_unseen(judged: bytes, name: str) -> Steps[bool]:
    """Removes what it took aside, whatever that was."""
    yield TakeLeaseAside(name)
    yield RemoveTemporary(name)
    return True


def _never_put_back(patch: Patch) -> None:
    patch.setattr(leases, "break_lease", _break_unseen)
    patch.setattr(lease, "break_lease", _break_unseen)


def _set(target: object, name: str, value: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(target, name, value)


_ANSWERS: Final = Rules(answers_publication=True)
_TWO: Final = (appender("A"), appender("B"))
_POWER: Final = start()._replace(power_cuts=1)
_VIEWS: Final = (appender("A", view=True), appender("B", view=True))
_TAKEOVER: Final = (claims.backup("A"), claims.takeover("B", "A"))
_BY_HAND: Final = (claims.backup("A"), claims.takeover("B", "A", by_hand=True))
_BREAKERS: Final = (
    leases.breaker("A", b"dead"),
    leases.breaker("B", b"dead"),
    leases.holder("C", releases=False),
)


def _log(name: str, programs: tuple[Program, ...], **values: Any) -> Scenario:
    return Scenario(name, programs, values.pop("at_end", LOG), start(), chain_grows, **values)


def _power(name: str, **values: Any) -> Scenario:
    return Scenario(
        name, _TWO, all_of(head_is_whole, LOG, nobody_is_alarmed), _POWER, chain_grows, **values
    )


def _claims(name: str, programs: tuple[Program, ...] = _TAKEOVER, **values: Any) -> Scenario:
    return Scenario(name, programs, CLAIMS, claims.new_database(), chain_grows, **values)


def _view(name: str, **values: Any) -> Scenario:
    return Scenario(name, _VIEWS, view_is_current, start(), chain_grows, **values)


_UPGRADE: Final = (upgrades.upgrader("A", asks_first=True), upgrades.older("B"))

MUTANTS: Final = (
    Mutant(
        "believes that a publication was done",
        _log("believes done", _TWO, budget=Cost(fault=1), rules=_ANSWERS),
        _believe(done=True, exists=False),
    ),
    Mutant(
        "believes that a publication was not done",
        _log("believes exists", _TWO, budget=Cost(fault=1), rules=_ANSWERS, at_end=never_twice),
        _believe(done=True, exists=True),
    ),
    Mutant(
        "believes an honest NAS while generations are pruned",
        _log(
            "believes",
            (appender("A"), appender("B", 2), pruner()),
            rules=replace(_ANSWERS, prunes=True),
            at_end=each_once,
        ),
        _believe(done=True, exists=False),
    ),
    Mutant(
        "does not run the change again after a lost race",
        _log("stale change", _TWO),
        _set(protocol, "transact", _not_run_again),
    ),
    Mutant(
        "publishes by a rename that replaces",
        _log("replaces", _TWO, rules=Rules(refuses_to_replace=False)),
    ),
    Mutant(
        "answers before its generation is on the disk",
        _power("unsynced answer"),
        _unsynced(own=True),
    ),
    Mutant("builds on what is not on the disk", _power("unsynced base"), _unsynced(own=False)),
    Mutant(
        "does not look at what it brought to the disk",
        _power("another's name"),
        _set(protocol, "_is_on_disk", _syncs_a_name),
    ),
    Mutant("commits without a flush", _power("unflushed", rules=Rules(flushes=False))),
    Mutant(
        "prunes the head",
        _log("prunes all", (appender("A"), pruner(0)), rules=Rules(prunes=True)),
        _set(protocol, "ATTEMPTS", 3),
    ),
    Mutant(
        "gives a number to two transactions",
        _log("numbers", (_reuses_numbers("A"),), budget=Cost(error=1), at_end=each_once),
    ),
    Mutant(
        "takes a first commit that failed for an expiry",
        _log("fence", (appender("A", 2),), budget=Cost(error=1)),
        _fence_by_number,
    ),
    Mutant(
        "lets an expired session commit",
        _log("no fence", (appender("A", 2), expirer("B", "A", 1))),
        _no_fence,
    ),
    Mutant(
        "forgets expired sessions at once",
        _log("no tombstones", (appender("A", 2), expirer("B", "A", 2))),
        _no_tombstones,
    ),
    Mutant(
        "numbers each commit of a session 1", _claims("numbers"), _session_forgets_what_it_committed
    ),
    Mutant(
        "publishes the view without a second look",
        _view("one look"),
        _set(readable_view, "publish_view", _view_without_second_look),
    ),
    Mutant(
        "believes what it reads back of the view",
        _view("read back", budget=Cost(stale=1)),
        _set(readable_view, "publish_view", _view_believed),
    ),
    Mutant(
        "looks at the head before the view",
        _view("imagined edit"),
        _set(readable_view, "_set_edit_aside", _head_before_view),
    ),
    Mutant(
        "trusts a listing",
        _view("trusts", budget=Cost(stale=1)),
        _set(protocol, "_follow", _trusts_the_listing),
    ),
    Mutant(
        "removes what is in a bundle before that is on the disk",
        bundles.POWER,
        _set(bundling, "_remove_kept", bundles.removes_unsynced),
    ),
    Mutant(
        "removes what is in a bundle without reading it back",
        bundles.FAULTS,
        _set(bundling, "_remove_kept", bundles.removes_unread),
    ),
    Mutant(
        "asks for older programs before the upgrade, not in it",
        Scenario(
            "asks first",
            (upgrades.upgrader("A", asks_first=True), upgrades.older("B")),
            LOG,
            upgrades.first_format(),
            upgrades.formats_grow,
        ),
    ),
    Mutant("does not look at the claim", _claims("unchecked", _BY_HAND), _claims_unchecked),
    Mutant(
        "puts a copy in place before it announces that",
        _claims("late", (claims.backup("A", intends=False), _TAKEOVER[1])),
    ),
    Mutant("finishes without an intent", _claims("no intent"), _published_without_intent),
    Mutant("keeps the claims of expired sessions", _claims("kept claims"), _expiry_keeps_claims),
    Mutant(
        "drops the intent of an expired session", _claims("dropped intents"), _expiry_drops_intents
    ),
    Mutant(
        "breaks a lease without looking at what it took",
        Scenario(
            "unseen", _BREAKERS, leases.nobody_is_robbed(b"dead"), start()._replace(lease=b"dead")
        ),
        _never_put_back,
    ),
)
