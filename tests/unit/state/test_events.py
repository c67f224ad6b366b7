"""Who tells what to whom: every crash of every teller, two at once, clocks that are off."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from shared.host.clock import timestamp
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord
from shared.state.records import Claim, EventRecord, Told
from shared.state.rules import event_telling, events
from shared.state.rules.event_telling import Terms
from shared.state.rules.events import EventKey, Seen
from shared.state.states import State
from tests.unit.state.builders import contents, session, vm

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
DAY = timedelta(days=1)
OVERDUE = EventKey("vms", "web01", "overdue")
SILENT = EventKey("nodes", "alpha", "silent")
MAIL, CHAT = Terms("mail"), Terms("chat")


def database(status: State = State.CLEAN, *sessions: str) -> Contents:
    made = contents(vm("web01", status), sessions=tuple(session(name) for name in sessions))
    for node in ("alpha", "beta", "gamma"):
        made = made.with_node(NodeRecord(node, f"machine-{node}"))
    return made


def seen(
    *stands: EventKey, node: str = "beta", when: datetime = NOON, level: str = "critical"
) -> Seen:
    return Seen(node, timestamp(when), dict.fromkeys(stands, level))


def event(found: Contents, key: EventKey = OVERDUE) -> EventRecord | None:
    return dict(events.all_events(found)).get(key)


def live(found: Contents, name: str) -> Contents:
    return found.with_session(session(name))


def over(found: Contents, name: str) -> Contents:
    return found.with_session(session(name, "expired"))


@dataclass
class Post:
    """Tellers of some hosts, which crash where they are told to, and what they have sent."""

    found: Contents
    sent: list[tuple[str, EventKey, str]] = field(default_factory=list)
    number: int = 0

    def tell(self, terms: Terms, view: Seen, *, crash: str = "", answers: bool = True) -> None:
        """One tick of a host: looks, claims, sends, commits; dies at `crash`."""
        self.number += 1
        name = f"{view.node}.{self.number}"
        self.found = events.observe(self.found, view)
        after = event_telling.claim(self.found, terms, view, name)
        if after == self.found:
            return
        self.found = live(after, name)
        said = event_telling.claimed(self.found, terms.target, name)
        if crash != "claimed":
            if answers:
                self.sent += [
                    (terms.target, key, "over" if e.ended else "on") for key, e in said.items()
                ]
            if crash != "sent":
                self.found = (
                    event_telling.told(self.found, terms.target, name, said, view.when)
                    if answers
                    else event_telling.not_told(
                        self.found, terms.target, name, view.node, view.when
                    )
                )
        self.found = over(self.found, name)  # it ends, or the next database worker finds it dead

    def count(self, target: str, what: str) -> int:
        return Counter((to, how) for to, _, how in self.sent)[target, what]


CRASHES = ("", "claimed", "sent")


@pytest.mark.broad
@pytest.mark.parametrize(
    ("key", "crashes", "skew"),
    list(product((OVERDUE, SILENT), product(CRASHES, CRASHES), (-3600, 0, 3600))),
)
def test_told_at_least_once_and_twice_only_after_a_crash(
    key: EventKey, crashes: tuple[str, str], skew: int
) -> None:
    """Every event, begun and over, is told by hosts that die at each step, with clocks an hour off.

    alpha dies, beta follows; both targets are told.
    """
    post = Post(database())
    off = timedelta(seconds=skew)
    for stands, what, crash in (((key,), "on", crashes[0]), ((), "over", crashes[1])):
        start = NOON if stands else NOON + timedelta(hours=3)
        for terms in (MAIL, CHAT):
            post.tell(terms, seen(*stands, node="beta", when=start), crash=crash)
        for minute in range(10, 60, 10):
            for node, ahead in (("gamma", off), ("beta", timedelta())):
                for terms in (MAIL, CHAT):
                    now = start + timedelta(minutes=minute) + ahead
                    post.tell(terms, seen(*stands, node=node, when=now))
        for target in ("mail", "chat"):
            assert post.count(target, what) == (2 if crash == "sent" else 1), (what, post.sent)
    assert event(post.found, key) is None, "nothing is owed to anybody any more"


def test_two_at_once_one_tells() -> None:
    found = events.observe(live(live(database(), "alpha.1"), "beta.1"), seen(OVERDUE))
    first = event_telling.claim(found, MAIL, seen(OVERDUE, node="alpha"), "alpha.1")
    second = event_telling.claim(first, MAIL, seen(OVERDUE), "beta.1")
    assert second == first, "a claim of a living session stands"
    assert event_telling.claimed(second, "mail", "beta.1") == {}
    assert list(event_telling.claimed(second, "mail", "alpha.1")) == [OVERDUE]
    other = event_telling.claim(second, CHAT, seen(OVERDUE), "beta.1")
    assert list(event_telling.claimed(other, "chat", "beta.1")) == [OVERDUE], (
        "another target is free"
    )


def test_a_displaced_teller_changes_nothing_of_its_heir() -> None:
    found = events.observe(live(database(), "alpha.1"), seen(OVERDUE))
    found = event_telling.claim(found, MAIL, seen(OVERDUE, node="alpha"), "alpha.1")
    said = event_telling.claimed(found, "mail", "alpha.1")
    heir = event_telling.claim(
        live(over(found, "alpha.1"), "beta.1"), MAIL, seen(OVERDUE), "beta.1"
    )
    assert event_telling.told(heir, "mail", "alpha.1", said, timestamp(NOON)) == heir
    assert event_telling.not_told(heir, "mail", "alpha.1", "alpha", timestamp(NOON)) == heir


def test_an_idle_tick_changes_nothing() -> None:
    post = Post(database())
    post.tell(MAIL, seen(OVERDUE))
    before = post.found
    for hours in range(1, 23):
        post.tell(MAIL, seen(OVERDUE, when=NOON + timedelta(hours=hours)))
    assert post.found == before
    assert post.count("mail", "on") == 1


def test_what_goes_on_is_told_again_after_a_day_and_by_one_host() -> None:
    post = Post(database())
    for hours in range(73):
        for node in ("beta", "gamma"):
            post.tell(MAIL, seen(OVERDUE, node=node, when=NOON + timedelta(hours=hours)))
    assert post.count("mail", "on") == 4


def test_a_host_that_does_not_see_it_any_more_does_not_repeat_it() -> None:
    post = Post(database())
    post.tell(MAIL, seen(OVERDUE))
    other = replace(seen(node="gamma", when=NOON + DAY), unsure=lambda _key: True)
    post.tell(MAIL, other)
    assert post.count("mail", "on") == 1


def test_a_target_that_takes_nothing_is_tried_by_the_next_host_and_by_the_same_one_later() -> None:
    post = Post(database())
    post.tell(MAIL, seen(OVERDUE), answers=False)
    tried = post.found
    post.tell(MAIL, seen(OVERDUE, when=NOON + timedelta(minutes=4)), answers=False)
    assert post.found == tried, "too soon for the same host: no commit either"
    post.tell(MAIL, seen(OVERDUE, node="gamma"))
    assert post.sent == [("mail", OVERDUE, "on")]
    again = event(post.found)
    assert again is not None
    assert again.targets["mail"] == Told(told=timestamp(NOON), level="critical")


def test_a_target_that_is_away_for_long_is_tried_once_an_hour_and_learns_what_happened() -> None:
    post, tries = Post(database()), 0
    for minutes in range(0, 24 * 60, 10):
        before = post.found
        post.tell(MAIL, seen(OVERDUE, when=NOON + timedelta(minutes=minutes)), answers=False)
        tries += post.found != before
    assert 24 <= tries <= 29
    post.tell(MAIL, seen(when=NOON + 2 * DAY))
    assert post.sent == [("mail", OVERDUE, "over")], "it was never told, and is told that it was"


def test_what_nobody_was_told_of_ends_without_a_word() -> None:
    found = events.observe(database(), seen(OVERDUE))
    assert event(found)
    assert events.observe(found, seen()) == database()


def test_what_begins_again_before_its_end_was_told_went_on() -> None:
    post = Post(database())
    post.tell(MAIL, seen(OVERDUE))
    ended = events.observe(post.found, seen(when=NOON + timedelta(minutes=10)))
    post.found = events.observe(ended, seen(OVERDUE, when=NOON + timedelta(minutes=20)))
    post.tell(MAIL, seen(OVERDUE, when=NOON + timedelta(minutes=30)))
    assert post.count("mail", "on") == 1


def test_it_ends_while_it_is_told_and_begins_while_its_end_is_told() -> None:
    found = events.observe(live(database(), "beta.1"), seen(OVERDUE))
    claimed = event_telling.claim(found, MAIL, seen(OVERDUE), "beta.1")
    said = event_telling.claimed(claimed, "mail", "beta.1")
    ended = events.observe(claimed, seen())
    told = event_telling.told(ended, "mail", "beta.1", said, timestamp(NOON))
    assert event_telling.due(told, MAIL, seen()) == (OVERDUE,), "its end is owed"
    claimed = event_telling.claim(told, MAIL, seen(), "beta.1")
    said = event_telling.claimed(claimed, "mail", "beta.1")
    begun = events.observe(claimed, seen(OVERDUE))
    told = event_telling.told(begun, "mail", "beta.1", said, timestamp(NOON))
    assert event_telling.due(told, MAIL, seen(OVERDUE)) == (OVERDUE,), "its beginning is owed"


def test_levels_and_what_gets_worse() -> None:
    grave = Terms("mail", {"critical"})
    post = Post(database())
    post.tell(grave, seen(OVERDUE, level="warning"))
    assert post.sent == []
    post.tell(MAIL, seen(OVERDUE, level="warning"))
    post.tell(MAIL, seen(OVERDUE, level="critical"))
    assert post.count("mail", "on") == 2, "it has become worse"
    post.tell(MAIL, seen(OVERDUE, level="warning"))
    assert post.count("mail", "on") == 2
    found = events.observe(database(), seen(OVERDUE, level="of a later version"))
    assert event_telling.due(found, grave, seen(OVERDUE)) == ()
    assert event_telling.due(found, MAIL, seen(OVERDUE)) == (OVERDUE,)


def views() -> Iterator[tuple[str, Seen]]:
    yield "beta", seen(node="beta")
    yield "gamma", seen(node="gamma")
    yield "gamma, beta is absent", replace(seen(node="gamma"), absent={"beta"})
    yield "gamma, a week later", seen(node="gamma", when=NOON + 7 * DAY)


def test_two_hosts_of_different_settings_do_not_contradict_each_other() -> None:
    begun = events.observe(database(State.RUNNING), seen(OVERDUE, node="beta"))
    ended = {name: event(events.observe(begun, view)) is None for name, view in views()}
    assert ended == {
        "beta": True,
        "gamma": False,
        "gamma, beta is absent": True,
        "gamma, a week later": False,
    }


@pytest.mark.parametrize("status", [State.CLEAN, State.ARCHIVED])
def test_that_a_vm_has_its_copy_any_host_may_say(status: State) -> None:
    """The one that found it overdue may tell nobody any more."""
    begun = events.observe(database(State.RUNNING), seen(OVERDUE, node="beta"))
    record = replace(begun.vms["web01"], status=status)
    assert event(events.observe(begun.with_vm(record), seen(node="gamma"))) is None
    damaged = EventKey("vms", "web01", "damaged")
    record = replace(record, damaged=("20261122T203800Z-17",))
    begun = events.observe(begun.with_vm(record), seen(damaged, node="beta"))
    assert event(events.observe(begun, seen(node="gamma")), damaged) is not None
    mended = begun.with_vm(replace(record, damaged=()))
    assert event(events.observe(mended, seen(node="gamma")), damaged) is None


def test_that_work_is_finished_any_host_may_say_but_not_while_somebody_is_at_it() -> None:
    key = EventKey("vms", "web01", "unfinished")
    begun = events.observe(database(), seen(key, node="beta"))
    record = begun.vms["web01"]
    working = begun.with_vm(replace(record, claim=Claim("alpha.1", 7, "power", "")))
    waiting = begun.with_vm(replace(record, moving="archive"))
    for there in (working, waiting):
        assert event(events.observe(there, seen(node="gamma")), key) is not None
    assert event(events.observe(begun, seen(node="gamma")), key) is None


def test_of_what_a_host_is_not_sure_it_says_nothing() -> None:
    begun = events.observe(database(), seen(OVERDUE))
    unsure = replace(seen(), unsure=lambda key: key == OVERDUE)
    assert events.observe(begun, unsure) == begun


def test_what_is_gone_is_told_no_more() -> None:
    post = Post(database())
    post.tell(MAIL, seen(OVERDUE))
    gone = replace(post.found, vms={})
    assert events.observe(gone, seen(OVERDUE)) == gone
    ended = events.observe(post.found, seen())
    assert event(ended)
    late = seen(when=NOON + 8 * DAY)
    assert event(events.observe(ended, late)) is None, "no host has its target any more"


def test_fields_of_a_later_version_are_kept() -> None:
    found = database()
    told = Told(told=timestamp(NOON), level="critical", extra={"x": 1})
    record = EventRecord("critical", timestamp(NOON), "beta", targets={"mail": told})
    record = replace(record, extra={"y": 2})
    found = found.with_vm(replace(found.vms["web01"], events={"overdue": record}))
    post = Post(found)
    post.tell(MAIL, seen(OVERDUE, when=NOON + DAY))
    after = event(post.found)
    assert after is not None
    assert (after.extra, after.targets["mail"].extra) == ({"y": 2}, {"x": 1})
