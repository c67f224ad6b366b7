"""Whether the holder of a lock lives: by proof, by watching heartbeats, by the age of the last."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from coordinator import text
from shared.host.errors import NasError
from shared.state.sessions.deaths import (
    of_another_boot,
    proven_dead,
    silence_seconds,
    watch_silent,
)

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.host_records import SessionRecord

Verdict = Literal["live", "expired", "dead", "unknown"]

#: A heartbeat from further in the future than this says nothing about its age: on SMB it carries
#: its host's clock.
_AHEAD_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Watched:
    """What watching found out.

    Sessions that showed no new heartbeat for `seconds`, and those that did.
    """

    seconds: float
    silent: Collection[str] = ()
    alive: Collection[str] = ()


def watch(site: "Site", rows: "Collection[SessionRecord]", seconds: float) -> Watched:
    """Watches sessions for `seconds` (bounded: at most twice that).

    Those whose heartbeats cannot be read are in neither group.
    """
    try:
        silent = watch_silent(
            site.database,
            rows,
            seconds,
            progress=lambda quiet: text.progress(
                f"watching heartbeats: {quiet:.0f} of {seconds:.0f} s"
            ),
        )
    except NasError:
        return Watched(seconds)
    finally:
        text.progress("")
    quiet = {dead.session.id for dead in silent}
    return Watched(seconds, quiet, {row.id for row in rows} - quiet)


def verdict(
    site: "Site", row: "SessionRecord", age: float | None, watched: Watched | None
) -> tuple[Verdict, str]:
    """Whether a session lives, and why that is said. `age` is that of its heartbeat, in seconds."""
    lease = site.database.version.lease_seconds
    proof = proven_dead(row, site.identity)
    if proof:
        return "dead", proof
    if watched and row.id in watched.alive:
        return "live", "it showed a new heartbeat"
    restarted = of_another_boot(row, site.identity)
    needed = silence_seconds(row, site.identity, lease)
    if watched and row.id in watched.silent:
        return _of_silent(min(watched.seconds, needed), needed, restarted=restarted)
    if restarted:
        return (
            "unknown",
            (
                f"its machine was restarted since, or this one is a copy of it; "
                f"--watch {needed:.0f} finds out"
            ),
        )
    return by_age(age, lease)


def _of_silent(seconds: float, needed: float, *, restarted: bool) -> tuple[Verdict, str]:
    silent = f"no heartbeat for {seconds:.0f} s"
    if seconds < needed:
        return "unknown", f"{silent} of watching; it expires after {needed:.0f} s"
    if restarted:
        return "dead", f"its machine was restarted, and {silent}"
    return "expired", f"{silent}: the next worker that watches takes over"


def by_age(age: float | None, lease: float) -> tuple[Verdict, str]:
    """What the age of a heartbeat alone says, without watching."""
    if age is None:
        return "unknown", "the age of its heartbeat cannot be told"
    if age < lease:
        return "live", f"its last heartbeat is {age:.0f} s old"
    return (
        "unknown",
        (
            f"its last heartbeat is {age:.0f} s old, more than the lease time of {lease:.0f} s; "
            f"--watch finds out"
        ),
    )


def age_of(nas_time: float, touched: float) -> float | None:
    """The age of a heartbeat by the NAS's clock, in seconds; None if it says nothing."""
    age = nas_time - touched
    return None if age < -_AHEAD_SECONDS else max(0.0, age)
