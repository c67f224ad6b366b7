"""Verdicts as people read them, the same wherever they are read."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from shared.host.duration import spoken
from shared.tasks.judgement import GRAVITY, Level, Verdict
from shared.tasks.verdicts import Verdicts

#: So many are named in the one sentence.
_NAMED: Final = 3


def answer(found: Verdicts) -> str:
    """The one sentence about everything: what is wrong first, or how many VMs there are."""
    wrong = what_is_wrong(found)
    if not found.vms:
        none = "no VM is known: `vmbackup-worker vmfind` finds those of its host"
        return "; ".join([*(said(verdict) for verdict in wrong[:_NAMED]), none])
    if not wrong:
        kinds = [verdict.kind for verdict in found.vms]
        counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
        return f"{len(kinds)} {'VM' if len(kinds) == 1 else 'VMs'}: {', '.join(counts)}"
    named = "; ".join(said(verdict) for verdict in wrong[:_NAMED])
    return named + (f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else "")


def what_is_wrong(found: Verdicts) -> list[Verdict]:
    """The subjects that are not all right, the worst first."""
    return _worst_first(verdict for verdict in found.all if verdict.level != Level.OK)


def one_by_one(wrong: Sequence[Verdict]) -> list[Verdict]:
    """Each thing that is not all right by itself, the worst first."""
    return _worst_first(
        one for verdict in wrong for one in (replace(verdict, also=()), *verdict.also)
    )


def _worst_first(verdicts: Iterable[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda one: -GRAVITY.index(one.level))


def said(verdict: Verdict) -> str:
    """A verdict with its subject: `web01: it was used, and not copied since (3 d)`."""
    return f"{verdict.subject}: {reasons(verdict)}"


def reasons(verdict: Verdict) -> str:
    """All that a verdict says, without of whom: `1 copy is damaged; also it may be off (3 d)`."""
    return "; also ".join(
        one.reason + ("" if one.seconds is None else f" ({spoken(one.seconds)})")
        for one in (verdict, *verdict.also)
    )
