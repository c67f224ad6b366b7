"""Killed at any commit and any write of placing or ending a hold: the copy stays, both agree."""

from collections.abc import Callable
from typing import Any

import pytest

from shared.copies.copy_files import NasFiles
from shared.host.errors import LockedError
from shared.site import Site
from shared.state.sessions import recovery
from shared.state.sessions.deaths import Dead, live_sessions
from shared.state.store.database import Database
from shared.tasks import copy_hold, pruning
from tests.support.copies import PowerCutError
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_holds import HELD, INDEX, TITLE, held, marked, place, web
from worker.database import settle_holds

__all__ = ["web"]
BOTH, NONE = ([(TITLE, HELD)], [(TITLE, HELD)]), ([], [])


class Cut:
    """A process that dies at its act number `at`, before or after it, and does nothing more."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after = at, after

    def __call__(self, act: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left < -1 or (self.left == -1 and not self.after):
            raise PowerCutError
        result = act()
        if self.left == -1:
            raise PowerCutError
        return result


class CutFiles:
    """A door to the copies at each of whose operations a process may die."""

    def __init__(self, cut: Cut) -> None:
        self.cut, self.files = cut, NasFiles()

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.files, name)
        return lambda *arguments: self.cut(lambda: operation(*arguments))


def killed(
    web: Operator,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Site], object],
    cut: Cut,
) -> bool:
    """Whether the process of `act` was killed; its session is expired then."""
    site = web.site()
    site.files = CutFiles(cut)  # type: ignore[assignment]
    transact = Database.transact
    with monkeypatch.context() as patched:
        patched.setattr(
            Database, "transact", lambda self, *rest: cut(lambda: transact(self, *rest))
        )
        try:
            act(site)
        except PowerCutError:
            pass
        else:
            return False
    rows = live_sessions(web.contents)
    recovery.expire(web.site().database, [Dead(row, "killed") for row in rows], "test")
    return True


def stands(web: Operator) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    return held(web), marked(web.nas / "web")


def require_kept(web: Operator) -> None:
    """Whatever of a hold is there keeps the copy."""
    site, record = web.site(), web.record("web")
    kept = {each.copy.stamp for each in pruning.decide(site, record) if each.keep}
    assert HELD in kept
    with pytest.raises(LockedError, match="held by web-now on alpha"):
        pruning.removable(site, record, HELD, last=True)


def end(site: Site) -> None:
    for mine in copy_hold.of(site):
        copy_hold.end(site, mine)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("act", ["place", "end"])
def test_the_copy_stays_and_the_next_worker_makes_both_agree(
    web: Operator, monkeypatch: pytest.MonkeyPatch, act: str, after: bool
) -> None:
    outcomes = []
    for at in range(100):
        if act == "end":
            place(web)
        do = end if act == "end" else put
        if not killed(web, monkeypatch, do, Cut(at, after=after)):
            break
        if stands(web) != NONE:
            require_kept(web)
        settle_holds(web.site(), web.contents)
        outcomes.append(stands(web))
        end(web.site())
        assert stands(web) == NONE
    assert at > 5
    first, last = (NONE, BOTH) if act == "place" else (BOTH, NONE)
    begun = outcomes.index(last)
    assert begun == (0 if after else 1), "from its first commit on it is finished by anybody"
    assert outcomes == [first] * begun + [last] * (len(outcomes) - begun)


def put(site: Site) -> None:
    record = site.database.head().contents.vms["web"]
    copy_hold.place(site, record, HELD, name="web-now", index=INDEX)
