"""Who sends a report to a target, and when it was last sent. Pure.

It is a claim like that of telling an event: a session commits that it sends, sends, and commits
what became of that. What is known of it stands with one host, whichever is the first by name when
the first report is sent; it stays there. Programs that know nothing of it keep it as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from shared.host.clock import TOLERANCE, parse_timestamp
from shared.state.contents import Contents
from shared.state.records import Told
from shared.state.rules.event_telling import is_live, wait_seconds

Every = Literal["daily", "weekly"]

LENGTHS: Final = {"daily": timedelta(days=1), "weekly": timedelta(days=7)}


@dataclass(frozen=True, slots=True)
class ReportTurn:
    """One report to one target. `node` would send it, `when` is now, by the clock of the NAS.

    `begun` is since when it is due, by the hour that the target wants, in the time of that host.
    """

    target: str
    every: Every
    node: str
    when: str
    begun: datetime


def begun(now: datetime, every: Every, hour: int) -> datetime:
    """The last moment at which a report was due: that hour of a day, or of a Monday.

    `now` is local time; so is what is answered.
    """
    moment = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    moment -= timedelta(days=moment.weekday() if every == "weekly" else 0)
    return moment if moment <= now else moment - LENGTHS[every]


def last(contents: Contents, target: str) -> Told:
    """What is known of the reports to a target."""
    keeper = _keeper(contents, target)
    return contents.nodes[keeper].reports.get(target, Told()) if keeper else Told()


def since(contents: Contents, turn: ReportTurn) -> datetime:
    """From when on the next report tells: since the last one, a month at most."""
    now = parse_timestamp(turn.when)
    sent = _moment(last(contents, turn.target).told)
    if sent is None or sent > now:
        return now - LENGTHS[turn.every]
    return max(sent, now - timedelta(days=31))


def is_due(contents: Contents, turn: ReportTurn) -> bool:
    """Whether this host may send the report now.

    Not within half its time since the last one: hosts have clocks and time zones of their own.
    """
    told, now = last(contents, turn.target), parse_timestamp(turn.when)
    if not contents.nodes or is_live(contents, told.session):
        return False
    failed = _moment(told.failed.get(turn.node, ""))
    if (
        told.failures
        and failed is not None
        and abs((now - failed).total_seconds()) < wait_seconds(told)
    ):
        return False
    sent = _moment(told.told)
    if sent is None or sent > now + TOLERANCE:
        return True
    return sent < turn.begun and now - sent >= LENGTHS[turn.every] / 2


def claim(contents: Contents, turn: ReportTurn, session: str) -> Contents:
    """Gives `session` the report, if it is still due."""
    if not is_due(contents, turn):
        return contents
    return _with(contents, turn.target, lambda told: replace(told, session=session))


def is_claimed(contents: Contents, target: str, session: str) -> bool:
    """Whether it is `session` that sends it now."""
    return last(contents, target).session == session


def sent(contents: Contents, turn: ReportTurn, session: str) -> Contents:
    """Notes that the target has its report."""
    if not is_claimed(contents, turn.target, session):
        return contents
    return _with(contents, turn.target, lambda told: Told(told=turn.when, extra=told.extra))


def not_sent(contents: Contents, turn: ReportTurn, session: str) -> Contents:
    """Notes that the target took nothing: another host may try at once, this one later."""
    if not is_claimed(contents, turn.target, session):
        return contents
    return _with(
        contents,
        turn.target,
        lambda told: replace(
            told,
            session="",
            failures=told.failures + 1,
            failed={**told.failed, turn.node: turn.when},
        ),
    )


def _keeper(contents: Contents, target: str) -> str:
    """The host with which it stands; empty if there is no host."""
    names = sorted(contents.nodes)
    return next((name for name in names if target in contents.nodes[name].reports), "") or next(
        iter(names), ""
    )


def _with(contents: Contents, target: str, change: Callable[[Told], Told]) -> Contents:
    node = contents.nodes[_keeper(contents, target)]
    entry = change(node.reports.get(target, Told()))
    return contents.with_node(replace(node, reports={**node.reports, target: entry}))


def _moment(stamp: str) -> datetime | None:
    try:
        return parse_timestamp(stamp)
    except ValueError:
        return None
