"""The message that tells of events: one for all that a target is told at a time."""

from collections.abc import Iterator, Mapping
from typing import Final

from shared.host.clock import parse_timestamp
from shared.host.duration import spoken
from shared.notices.notice import Kind, Notice
from shared.state.records import EventRecord
from shared.state.rules.events import LEVELS, EventKey
from shared.tasks.judgement import Verdict

#: What an event is, where this host has no verdict of its own (another one has), or it is over.
_WORDS: Final[Mapping[str, str]] = {
    "damaged": "a copy is damaged",
    "overdue": "it was used, and not copied in time",
    "uncopied": "it has no copy at all",
    "unlooked": "nobody looks at it",
    "unfinished": "work on it is unfinished",
    "left": "what a backup did to it may not be undone",
    "twice": "two hosts have it, and one of them is not backed up",
    "disputed": "it is not known which copy is newer",
    "unverified": "a copy was not read again for too long",
    "unrestorable": "a copy does not come back",
    "unrehearsed": "no copy was rehearsed for too long",
    "stuck": "what runs from one of its copies does not get on",
    "unsettled": "what runs from one of its copies is in no backup",
    "gone": "its host does not have it any more",
    "silent": "its workers have stopped, or it is off",
    "unknown": "none of its workers has noted that it looked",
    "clock": "its last look lies in the future",
    "away": "it cannot be worked with",
    "unusable": "it cannot be worked with",
    "records": "it has records that cannot be used",
    "full": "it is full",
    "nearly_full": "it is nearly full",
}
_KINDS: Final[Mapping[str, Kind]] = {"warning": "warning", "unknown": "warning"}


def compose(
    said: Mapping[EventKey, EventRecord],
    verdicts: Mapping[EventKey, Verdict],
    target: str,
    node: str,
    when: str,
) -> Notice:
    """The message for a target: the worst first, what is over last. `node` sends it, at `when`."""
    standing = sorted(
        (key for key, event in said.items() if not event.ended),
        key=lambda key: (-_rank(said[key].level), key),
    )
    over = sorted(key for key, event in said.items() if event.ended)
    lines = [line for key in standing for line in _standing(key, said[key], verdicts, target, when)]
    lines += [_over(key, said[key]) for key in over]
    first = lines[0].removeprefix("still ") if lines else ""
    others = len(said) - 1
    title = f"vmbackup: {first}" + (f" (and {others} more)" if others else "")
    worst = said[standing[0]].level if standing else ""
    kind: Kind = _KINDS.get(worst, "failure") if standing else "success"
    footer = f"Told by {node}, {when}. `vmbackup-admin check` says how things stand now."
    return Notice.of(title, [*lines, "", footer], kind)


def _standing(
    key: EventKey,
    event: EventRecord,
    verdicts: Mapping[EventKey, Verdict],
    target: str,
    when: str,
) -> Iterator[str]:
    told = event.targets.get(target)
    still = "still " if told is not None and told.told else ""
    verdict = verdicts.get(key)
    begun = f", for {spoken(_passed(event.begun, when))} now" if still else ""
    if verdict is None:
        yield f"{still}{event.level.upper()}: {key.subject}: {words(key)}{begun}"
        return
    age = "" if verdict.seconds is None else f" ({spoken(verdict.seconds)})"
    yield f"{still}{event.level.upper()}: {key.subject}: {verdict.reason}{age}{begun}"
    if verdict.remedy:
        yield f"    {verdict.remedy}"


def _over(key: EventKey, event: EventRecord) -> str:
    lasted = spoken(_passed(event.begun, event.ended))
    return f"RECOVERED: {key.subject}: over after {lasted}: {words(key)}"


def words(key: EventKey) -> str:
    """What an event is, in a few words."""
    if key.kind == "failing":
        return "its backup failed" if key.section == "vms" else "a worker failed"
    return _WORDS.get(key.kind, key.kind)


def _passed(begun: str, end: str) -> float:
    try:
        return max(0.0, (parse_timestamp(end) - parse_timestamp(begun)).total_seconds())
    except ValueError:
        return 0.0


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else 1
