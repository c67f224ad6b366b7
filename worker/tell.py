"""tell: tells people, by the targets of the configuration, what is wrong and what is well again.

`run` starts it last, and the `database` worker ends with it, so that every schedule has it. It
holds no VM, and no lock but this host's slot for a teller. Whoever dies here is followed by the
next tick of any host that has the target.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from shared import command_line
from shared.host import secret_values
from shared.host.clock import Clock, SystemClock
from shared.host.errors import ConfigurationError, ExitCode, LockLostError, VmBackupError
from shared.host.hours import opening
from shared.state.contents import Contents
from shared.state.rules import event_telling, events
from shared.state.rules.event_telling import Terms
from shared.state.rules.events import EventKey
from shared.state.sessions import worker_ends
from shared.state.sessions.host_look import TELLER
from worker import report_sending, told_here
from worker.report import slot
from worker.telling_store import Agreed, Claims, Store

if TYPE_CHECKING:
    from shared.command_line import Invocation
    from shared.host.configuration import Configuration, NotifyTarget
    from shared.notices.notice import Notice
    from shared.site import Site
    from shared.tasks.event_finding import View
    from shared.tasks.judgement import Verdict

log: Final = logging.getLogger(__name__)

NAME: Final = TELLER
#: A target that took nothing so often in a row makes this worker fail, which `check` shows.
_FAILURES: Final = 4
#: A host's file that cannot be read is read again after so long: it may have been half written.
_SECOND_LOOK_SECONDS: Final = 2.0

#: Sends a message to a URL, in at most 20 s; answers what went wrong.
Send = Callable[[str, "Notice"], str]


@dataclass
class Teller:
    """Tells the targets of one host what is to be told. `failed`: it cannot, for some target."""

    configuration: "Configuration"
    clock: Clock
    send: Send
    failed: bool = False
    urls: dict[str, str] = field(default_factory=dict)

    def run(self) -> ExitCode:
        """Raises `ConfigurationError` if this host's note cannot be kept."""
        host, nas = self.configuration.host, self.configuration.nas
        self._reveal()
        looked, own = False, dict[EventKey, "Verdict"]()
        try:
            own |= self._of_database()
            looked = True
        except LockLostError as error:
            log.info("%s: whoever displaced this process goes on", error.message)
            return ExitCode.LOCK_LOST
        except VmBackupError as error:
            log.info("this host tells of it by itself: %s", error.message)
            own |= [told_here.trouble(error)]
        note = told_here.OwnEvents(worker_ends.events_note(host.state_directory, nas.mountpoint))
        view = told_here.own_view(host.node, self.clock, own, looked=looked)
        self.tell(note, view, told_here.REPEAT_SECONDS)
        return ExitCode.FAILURE if self.failed else ExitCode.DONE

    def _reveal(self) -> None:
        """Reads where the targets are. One of which that is not known is told by other hosts."""
        from shared.notices.sending import require_apprise

        for name, target in self.configuration.notify.items():
            try:
                require_apprise()
                self.urls[name] = secret_values.revealed(target.url, f"notify.{name}.url")
            except ConfigurationError as error:
                self.failed = True
                hint = f" ({error.hint})" if error.hint else ""
                log.error("nothing can be told from here: %s%s", error.message, hint)  # noqa: TRY400

    def _of_database(self) -> "Mapping[EventKey, Verdict]":
        """Tells of VMs and hosts; answers what is wrong with the NAS and the database."""
        from shared.site import open_site
        from shared.tasks import event_finding as seeing

        site = open_site(self.configuration, self.clock)
        site.database.require_writable()
        contents = site.database.head().contents
        view = seeing.view(site, contents)
        if seeing.new_unknowns(view, contents):
            self.clock.sleep(_SECOND_LOOK_SECONDS)
            view = seeing.view(site, contents)
        self.tell(Agreed(site), view)
        self._send_reports(site, view)
        return told_here.of_nas(view.room, contents)

    def _send_reports(self, site: "Site", view: "View") -> None:
        """Sends the reports that are due. Each that is not sent is a failure: it is seldom due."""
        awake = {
            name: target
            for name, target in self.configuration.notify.items()
            if name in self.urls and not self._is_quiet(target)
        }
        if any(target.report for target in awake.values()):
            failed = report_sending.send_due(
                site,
                Agreed(site),
                awake,
                view.seen.when,
                lambda name, notice: self.send(self.urls[name], notice),
            )
            self.failed = self.failed or bool(failed)

    def tell(self, store: Store, view: "View", repeat_seconds: float = 0) -> None:
        """Commits what has begun or is over, then tells each target what it is owed.

        `repeat_seconds`: what goes on is repeated no sooner, whatever a target says.
        """
        before = store.contents()
        observe = partial(events.observe, seen=view.seen)
        after = observe(before)
        if after != before:
            before = store.commit(observe, f"tell: {_news(before, after)}")
        owed = [
            (name, terms)
            for name, target in self.configuration.notify.items()
            if name in self.urls and not self._is_quiet(target)
            for terms in [_terms(name, target, repeat_seconds)]
            if event_telling.due(before, terms, view.seen)
        ]
        if owed:
            with store.claiming() as claims:
                for name, terms in owed:
                    before = self._tell_target(claims, name, terms, view)
        self._look_back(before)

    def _is_quiet(self, target: "NotifyTarget") -> bool:
        hours = target.quiet
        return bool(hours) and opening(hours, self.clock.now()) is not None

    def _tell_target(self, claims: Claims, name: str, terms: Terms, view: "View") -> Contents:
        """Claims, sends, commits. Who dies in between, or does not reach it, is followed."""
        from shared.tasks.event_message import compose

        claim = partial(event_telling.claim, terms=terms, seen=view.seen, session=claims.id)
        contents = claims.commit(claim, f"tells {name}")
        said = event_telling.claimed(contents, name, claims.id)
        if not said:  # another host tells it
            return contents
        node, when = view.seen.node, view.seen.when
        problem = self.send(self.urls[name], compose(said, view.verdicts, name, node, when))
        if problem:
            log.info("the target %s took nothing: %s", name, problem)
            undone = partial(
                event_telling.not_told, target=name, session=claims.id, node=node, when=when
            )
            return claims.commit(undone, f"{name} took nothing")
        log.info("told %s of %d events", name, len(said))
        done = partial(event_telling.told, target=name, session=claims.id, said=said, when=when)
        return claims.commit(done, f"told {name}")

    def _look_back(self, contents: Contents) -> None:
        """Says which targets take nothing: at each tick, so that it counts as one error."""
        failures: dict[str, int] = {}
        for _key, event in events.all_events(contents):
            for name, told in event.targets.items():
                failures[name] = max(told.failures, failures.get(name, 0))
        for name in sorted(name for name, count in failures.items() if count and name in self.urls):
            self.failed = self.failed or failures[name] >= _FAILURES
            log.warning(
                "the target %s takes nothing; it is tried again (`vmbackup-admin notify --test %s` "
                "says why)",
                *(name, name),
            )


def _terms(name: str, target: "NotifyTarget", repeat_seconds: float) -> Terms:
    return Terms(name, target.severities, max(target.repeat_hours * 3600, repeat_seconds))


def _news(before: Contents, after: Contents) -> str:
    """What has begun and what is over, in a few words."""
    old, new = dict(events.all_events(before)), dict(events.all_events(after))
    standing = {key for key, event in old.items() if not event.ended}
    now = {key for key, event in new.items() if not event.ended}
    words = [f"{key.subject} {key.kind}" for key in sorted(now - standing)]
    words += [f"{key.subject} {key.kind} is over" for key in sorted(standing - now)]
    more = [f"and {len(words) - 5} more"] if len(words) > 5 else []
    return "; ".join([*words[:5], *more]) or "events"


def start_telling(invocation: "Invocation") -> ExitCode:
    """Tells, if there are targets and no other process of this host does. Returns its exit code."""
    from shared.notices.sending import send

    configuration = invocation.configuration()
    if not configuration.notify:
        return ExitCode.DONE
    host, clock = configuration.host, SystemClock()
    with slot(host.state_directory, NAME) as free:
        if not free:
            return ExitCode.DONE
        code = Teller(configuration, clock, send).run()
        worker_ends.note_end(host.state_directory, configuration.nas.mountpoint, NAME, code, clock)
    return code


@command_line.documented(
    example="vmbackup-worker tell",
    codes=(ExitCode.LOCK_LOST,),
)
@command_line.pass_invocation
def command(invocation: command_line.Invocation) -> ExitCode:
    """Tell people what is wrong and what is well again, by the targets of [notify."TARGET"].

    Each event is told to each target by one host, at least once, and twice only if that host dies
    right after it. What is wrong with the NAS or the database, each host tells by itself, once a
    day at most. Nothing is done without targets. Exit code 1 if a target cannot be told from here,
    or takes nothing for long.
    """
    return start_telling(invocation)


if __name__ == "__main__":
    from worker.cli import program

    program.main([NAME, *sys.argv[1:]])
