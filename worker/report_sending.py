"""Reports to the targets that want them: once for all hosts, as events are told."""

import logging
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from shared.host.clock import parse_timestamp
from shared.host.errors import VmBackupError
from shared.state.rules import report_turns
from shared.state.rules.report_turns import ReportTurn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.host.configuration import NotifyTarget
    from shared.notices.notice import Notice
    from shared.site import Site
    from worker.telling_store import Claims, Store

log: Final = logging.getLogger(__name__)


def turn_of(name: str, target: "NotifyTarget", node: str, when: str) -> ReportTurn | None:
    """The report that a target wants; None if it wants none. `when`: now, by the NAS's clock."""
    if not target.report:
        return None
    local = parse_timestamp(when).astimezone()
    begun = report_turns.begun(local, target.report, target.report_hour)
    return ReportTurn(name, target.report, node, when, begun.astimezone(UTC))


def send_due(
    site: "Site",
    store: "Store",
    targets: "Mapping[str, NotifyTarget]",
    when: str,
    send: "Callable[[str, Notice], str]",
) -> list[str]:
    """Sends each of the targets the report that is due now; answers which took none.

    `when` is now, by the clock of the NAS; `send` sends to a target, by its name, and answers what
    went wrong. Whoever dies in between is followed by the next tick of any host.
    """
    contents = store.contents()
    wanted = (turn_of(name, target, site.node, when) for name, target in targets.items())
    turns = [turn for turn in wanted if turn and report_turns.is_due(contents, turn)]
    if not turns:
        return []
    with store.claiming() as claims:
        return [turn.target for turn in turns if not _send(site, claims, turn, send)]


def _send(
    site: "Site", claims: "Claims", turn: ReportTurn, send: "Callable[[str, Notice], str]"
) -> bool:
    """Claims, sends, commits. False if the target took nothing."""
    target, session = turn.target, claims.id
    claimed = claims.commit(
        partial(report_turns.claim, turn=turn, session=session), f"sends a report to {target}"
    )
    if not report_turns.is_claimed(claimed, target, session):
        return True  # another host sends it
    since = report_turns.since(claimed, turn)
    if problem := _sent(site, turn, since, send):
        log.warning("no report was sent to %s: %s", target, problem)
        undone = partial(report_turns.not_sent, turn=turn, session=session)
        claims.commit(undone, f"{target} took no report")
        return False
    done = partial(report_turns.sent, turn=turn, session=session)
    claims.commit(done, f"sent a report to {target}")
    log.info("sent a report to %s", target)
    return True


def _sent(
    site: "Site", turn: ReportTurn, since: datetime, send: "Callable[[str, Notice], str]"
) -> str:
    """What went wrong; empty if the target has its report."""
    from shared.reports import report_text, reporting

    try:
        found = reporting.collect(site, site.database.head().contents, since)
    except VmBackupError as error:
        return error.message
    return send(turn.target, report_text.notice(found, turn.node))
