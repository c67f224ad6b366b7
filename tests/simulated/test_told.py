"""Who is told what: tellers of several hosts on one database, killed at each step."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.host.clock import SystemClock, timestamp
from shared.host.configuration import Configuration
from shared.host.errors import ExitCode, NasError
from shared.host.host_identity import HostIdentity
from shared.notices.notice import Notice
from shared.site import Site, open_site
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord
from shared.state.records import CopyRecord
from shared.state.rules import event_telling, events, sightings
from shared.state.rules.sightings import Sighting
from shared.state.sessions import deaths, recovery
from shared.state.sessions.host_look import PREFIX, WorkerEnd
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.state.sessions.worker_ends import note_end
from shared.state.states import State
from shared.state.store.create import create
from worker import telling_store
from worker.tell import Teller

VMS = {"alpha": "web01", "beta": "db01", "gamma": "app01"}
LONG_AGO = "2026-01-01T00:00:00Z"


class Ahead(SystemClock):
    """A clock so many hours ahead of the NAS's."""

    def __init__(self, hours: float = 0) -> None:
        self.hours = hours

    def now(self) -> datetime:
        return super().now() + timedelta(hours=self.hours)

    def sleep(self, seconds: float) -> None:
        """Does not wait."""


class Killed(BaseException):
    """What a process feels that is killed: it does nothing any more."""


@dataclass
class Hosts:
    """Hosts that look every ten minutes, their tellers, and what their targets got."""

    folder: Path
    got: list[tuple[str, str, Notice]] = field(default_factory=list)
    answer: str = ""
    targets: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"mail": {"url": "json://mail"}, "chat": {"url": "json://chat"}}
    )
    on_send: Callable[[], None] = lambda: None
    #: How late it is, and how far the clocks of hosts are ahead of that.
    hours: float = 0
    skew: dict[str, float] = field(default_factory=dict)
    #: Hosts that lost their targets, and how workers ended of which hosts noted that.
    mute: set[str] = field(default_factory=set)
    ends: dict[str, WorkerEnd] = field(default_factory=dict)

    def configuration(self, name: str, **nas: object) -> Configuration:
        place = {"mountpoint": self.folder / "nas", "require_mount": False, "reserve": 0, **nas}
        return Configuration.model_validate(
            {
                "nas": place,
                "host": {"node": name, "state_directory": self.folder / f"state-{name}"},
                "virtualbox": {},
                "backup": {},
                "policy": {},
                "notify": self.targets,
            }
        )

    def site(self, name: str = "beta") -> Site:
        return open_site(self.configuration(name), SystemClock())

    def contents(self) -> Contents:
        return self.site().database.head().contents

    @property
    def generation(self) -> int:
        return self.site().database.head().generation

    def look(self, *names: str, hours: float | None = None) -> None:
        """These hosts look, as they did for an hour and more, every ten minutes."""
        self.hours = self.hours if hours is None else hours
        uuids = [f"uuid-{vm}" for vm in VMS.values()]
        directory = self.folder / "nas" / "vmstate" / "node"
        for name in names or VMS:
            seen = VmsSeen(uuids, uuids, uuids)
            for ago in range(8, -1, -1):
                clock = Ahead(self.hours + self.skew.get(name, 0) - ago / 6)
                told = {} if name in self.mute else {"tell": WorkerEnd(0, timestamp(clock.now()))}
                ends = {**self.ends, **told}
                write_look(directory, HostIdentity.of_this_machine(name), clock, seen, ends)
                os.utime(
                    directory / f"{PREFIX}{name}",
                    (time.time() + (self.hours - ago / 6) * 3600,) * 2,
                )

    def tell(self, name: str) -> ExitCode:
        def send(url: str, message: Notice) -> str:
            self.on_send()
            if not self.answer:
                self.got.append((name, url.removeprefix("json://"), message))
            return self.answer

        clock = Ahead(self.hours + self.skew.get(name, 0))
        return Teller(self.configuration(name), clock, send).run()

    def titles(self, target: str = "mail") -> list[str]:
        return [message.title for _, to, message in self.got if to == target]

    def change(self, key: str, **values: Any) -> None:
        """Changes a record behind everybody's back."""
        record = replace(self.contents().vms[key], **values)
        self.site().database.commit_once(lambda found: found.with_vm(record), "test", "test")

    def damage(self, *keys: str) -> None:
        for key in keys:
            self.change(key, damaged=("20261122T203800Z-17",))


@pytest.fixture
def hosts(tmp_path: Path, probe_in_this_process: None) -> Hosts:
    """Three hosts with a VM each, all copied; they look."""
    made = Hosts(tmp_path)
    (tmp_path / "nas").mkdir()
    here = HostIdentity.of_this_machine("beta")
    create(tmp_path / "nas" / "vmstate", here, SystemClock(), 2.0)
    copy = CopyRecord("20261122T203800Z-17", 17, 15, "0" * 64, LONG_AGO, {})

    def fill(contents: Contents) -> Contents:
        for node, vm in VMS.items():
            contents = sightings.sight(contents, node, [Sighting(f"uuid-{vm}", vm, vm)], LONG_AGO)
            record = replace(contents.vms[vm], status=State.CLEAN, last_copy=copy)
            contents = contents.with_vm(record).with_node(NodeRecord(node, here.machine))
        return contents

    made.site().database.commit_once(fill, "test", "test")
    made.look()
    return made


def test_when_all_is_well_nobody_is_told_and_nothing_is_committed(hosts: Hosts) -> None:
    before = hosts.generation
    for name in ("alpha", "beta", "gamma"):
        assert hosts.tell(name) == ExitCode.DONE
    assert (hosts.got, hosts.generation) == ([], before)


def test_a_host_that_stopped_is_told_once_by_one_host_and_so_is_its_return(hosts: Hosts) -> None:
    hosts.look("beta", "gamma", hours=2)
    for _ in range(3):
        for name in ("beta", "gamma"):
            assert hosts.tell(name) == ExitCode.DONE
    silent = "vmbackup: CRITICAL: alpha: its workers have stopped, or it is off (2 h)"
    assert (hosts.titles(), hosts.titles("chat")) == ([silent], [silent]), "not each of its VMs"
    before = hosts.generation
    hosts.tell("gamma")
    assert hosts.generation == before, "an idle tick commits nothing"
    hosts.look(hours=2.1)
    for _ in range(2):
        for name in ("alpha", "gamma", "beta"):
            hosts.tell(name)
    assert [title[:27] for title in hosts.titles()[1:]] == ["vmbackup: RECOVERED: alpha:"]
    assert len(hosts.titles("chat")) == 2
    assert not dict(events.all_events(hosts.contents()))


@pytest.mark.parametrize("step", ["observed", "claimed", "sent"])
def test_a_teller_that_is_killed_is_followed(
    hosts: Hosts, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it claims, before it sends, and after: then it is told twice, and only then."""
    hosts.damage("web01")
    hosts.targets = {"mail": {"url": "json://mail"}}
    dead: list[str] = []

    def die() -> None:
        dead.extend(hosts.contents().sessions)
        raise Killed

    with monkeypatch.context() as during:
        if step == "observed":
            during.setattr(
                telling_store.Agreed, "claiming", lambda _self: (_ for _ in ()).throw(Killed())
            )
        elif step == "claimed":
            hosts.on_send = die
        else:
            during.setattr(event_telling, "told", lambda *_, **__: die())
        # a process that is killed ends no session and stops no heart
        during.setattr("shared.state.sessions.session.Session.__exit__", lambda *_: None)
        with pytest.raises(Killed):
            hosts.tell("alpha")
    hosts.on_send = lambda: None
    database = hosts.site().database
    live = deaths.live_sessions(database.head().contents)
    assert len(live) == (0 if step == "observed" else 1)
    if live:
        hosts.tell("beta")
        assert len(hosts.got) == (step == "sent"), "whoever may still live is waited for"
    silent = [deaths.Dead(row, "its machine is off") for row in live]
    recovery.expire(database, silent, "database")
    for name in ("beta", "gamma", "alpha"):
        hosts.tell(name)
    assert len(hosts.titles()) == (2 if step == "sent" else 1)


def test_two_tellers_at_once_send_one_message(hosts: Hosts) -> None:
    """While one sends, the other one comes: at each of the two targets, one message."""
    hosts.damage("web01")
    others: list[threading.Thread] = []

    def meanwhile() -> None:
        if not others:
            others.extend(
                threading.Thread(target=hosts.tell, args=(name,)) for name in ("beta", "gamma")
            )
            for other in others:
                other.start()
            for other in others:
                other.join()

    hosts.on_send = meanwhile
    hosts.tell("alpha")
    tellers = [threading.Thread(target=hosts.tell, args=(name,)) for name in VMS]
    hosts.on_send = lambda: None
    hosts.damage("db01")
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join()
    assert sorted(to for _, to, _ in hosts.got) == ["chat", "chat", "mail", "mail"]


def test_tellers_of_three_processes_at_once_send_one_message_to_each_target(hosts: Hosts) -> None:
    program = [sys.executable, "-m", "tests.support.tellers", hosts.folder / "nas" / "vmstate"]
    running = [
        subprocess.Popen([*program, name, "3"], stdout=subprocess.PIPE, text=True) for name in VMS
    ]
    printed = [process.communicate(timeout=100)[0] for process in running]
    lines = sorted(line for out in printed for line in out.splitlines())
    assert lines == ["done"] * 3 + ["sent chat", "sent mail"], printed


def test_a_target_that_does_not_answer_one_host_is_told_by_the_next(hosts: Hosts) -> None:
    hosts.damage("web01")
    hosts.answer = "no connection"
    assert hosts.tell("alpha") == ExitCode.DONE, "it is tried again"
    before = hosts.generation
    hosts.tell("alpha")
    assert hosts.generation == before, "not by the same host at once"
    hosts.answer = ""
    hosts.tell("beta")
    assert (len(hosts.titles()), len(hosts.titles("chat"))) == (1, 1)


def test_a_target_that_never_answers_makes_the_worker_fail(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    hosts.damage("web01")
    hosts.answer = "no connection"
    codes = []
    for number in range(5):
        hosts.look(hours=number * 1.1)
        codes.append(hosts.tell("alpha"))
    assert codes == [ExitCode.DONE] * 3 + [ExitCode.FAILURE] * 2
    assert hosts.tell("alpha") == ExitCode.FAILURE, "also between two attempts"
    assert "the target mail takes nothing" in caplog.text


def test_clocks_that_are_an_hour_off_make_no_message_more(hosts: Hosts) -> None:
    hosts.damage("web01")
    hosts.skew = {"alpha": 1, "beta": -1}
    for hours in (0, 0.5, 23):
        hosts.look(hours=hours)
        for name in VMS:
            hosts.tell(name)
    assert len(hosts.titles()) == 1
    hosts.look(hours=24.5)
    hosts.tell("beta")
    hosts.tell("alpha")
    assert len(hosts.titles()) == 2, "again after a day, by the clock of the NAS"


def test_a_host_that_comes_back_says_nothing_of_others_before_it_has_looked(hosts: Hosts) -> None:
    hosts.hours = 24
    hosts.tell("alpha")
    told = " ".join(message.body for _, _, message in hosts.got)
    assert "beta" not in told
    assert "db01" not in told
    hosts.look("alpha")
    hosts.tell("alpha")
    last = hosts.got[-1][2].body
    assert "RECOVERED: alpha: " in last
    assert "CRITICAL: beta: its workers have stopped" in last, "it has looked for an hour now"


def test_a_file_that_is_being_written_is_no_event(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = hosts.folder / "nas" / "vmstate" / "node" / f"{PREFIX}alpha"
    whole = place.read_bytes()
    place.write_bytes(whole[:50])
    monkeypatch.setattr(Ahead, "sleep", lambda *_: place.write_bytes(whole))
    hosts.tell("beta")
    assert hosts.got == []
    place.write_bytes(whole[:50])
    monkeypatch.undo()
    hosts.tell("beta")
    assert "alpha: none of its workers has noted that it looked" in hosts.titles()[0]


def test_severities_and_quiet_hours(hosts: Hosts) -> None:
    now = datetime.now().astimezone()
    quiet = f"{now - timedelta(hours=2):%H:%M}-{now + timedelta(hours=2):%H:%M}"
    hosts.targets = {
        "mail": {"url": "json://mail", "severities": ["critical"]},
        "chat": {"url": "json://chat", "quiet": quiet},
    }
    hosts.change("web01", order_unknown=("1", "2"))
    hosts.tell("beta")
    assert hosts.got == []
    hosts.look(hours=3)
    hosts.tell("beta")
    assert (hosts.titles(), len(hosts.titles("chat"))) == ([], 1)
    hosts.damage("web01")
    hosts.tell("beta")
    assert (len(hosts.titles()), len(hosts.titles("chat"))) == (1, 2)


def test_one_message_has_all_that_is_news(hosts: Hosts) -> None:
    hosts.damage("web01", "db01")
    hosts.change("app01", order_unknown=("1", "2"))
    hosts.tell("gamma")
    ((_, _, message),) = [each for each in hosts.got if each[1] == "mail"]
    damaged = "1 copy is damaged, and no newer one was read and is good"
    assert message.title == f"vmbackup: CRITICAL: db01: {damaged} (and 2 more)"
    assert message.kind == "failure"
    assert message.body.splitlines()[:6] == [
        f"CRITICAL: db01: {damaged}",
        "    vmbackup-admin verify db01",
        f"CRITICAL: web01: {damaged}",
        "    vmbackup-admin verify web01",
        "WARNING: app01: 2 copies are of unknown order",
        "    vmbackup-admin copies app01",
    ]


def test_of_the_nas_each_host_tells_by_itself_once_a_day(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise NasError("nothing is mounted at /mnt/nas", hint="mount it")

    with monkeypatch.context() as during:
        during.setattr("shared.site.open_site", away)
        for hours in (0, 1, 23, 25):
            hosts.hours = hours
            for name in ("alpha", "beta"):
                assert hosts.tell(name) == ExitCode.DONE
    title = "vmbackup: CRITICAL: NAS: nothing is mounted at /mnt/nas"
    assert hosts.titles()[:2] == [title, title], "each host"
    assert len(hosts.titles()) == 4, "and again after a day"
    hosts.got.clear()
    hosts.look(hours=26)
    for _ in range(2):
        for name in ("alpha", "beta"):
            hosts.tell(name)
    assert [title[:25] for title in hosts.titles()] == ["vmbackup: RECOVERED: NAS:"] * 2


def test_a_full_nas_and_unusable_records_are_told_by_each_host(hosts: Hosts) -> None:
    configuration = hosts.configuration("beta", reserve=2**62)
    got: list[str] = []
    for _ in range(2):
        sent = Teller(configuration, Ahead(), lambda _, message: got.append(message.title) or "")
        assert sent.run() == ExitCode.DONE
    assert len(got) == 2
    assert "CRITICAL: NAS: " in got[0]
    assert "less than nas.reserve" in got[0]


def test_a_target_whose_secret_is_not_here_is_told_by_another_host(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    hosts.damage("web01")
    good = hosts.targets
    hosts.targets = {**good, "mail": {"url": f"file:{tmp_path}/nothing"}}
    assert hosts.tell("alpha") == ExitCode.FAILURE
    assert "notify.mail.url: cannot read" in caplog.text
    assert (len(hosts.titles()), len(hosts.titles("chat"))) == (0, 1)
    hosts.targets = good
    hosts.tell("beta")
    assert (len(hosts.titles()), len(hosts.titles("chat"))) == (1, 1)


@pytest.mark.parametrize("mute", [False, True])
def test_what_a_host_began_that_lost_its_targets_is_ended_by_whoever_lives(
    hosts: Hosts, mute: bool
) -> None:
    hosts.look(hours=1000 * 24)  # nothing was verified for so long
    hosts.change("web01", verified=LONG_AGO)
    hosts.tell("alpha")
    assert "a copy was not read again" in hosts.titles()[0]
    hosts.mute = {"alpha"} if mute else set()
    hosts.look(hours=1000 * 24 + 1)
    hosts.change("web01", verified=timestamp(Ahead(hosts.hours).now()))
    for _ in range(2):
        hosts.tell("beta")
    assert len(hosts.titles()) == (2 if mute else 1), "else alpha itself says that it is over"
    if not mute:
        hosts.tell("alpha")
    assert hosts.titles()[1].startswith("vmbackup: RECOVERED: web01: over after")
    assert not dict(events.all_events(hosts.contents()))


def test_a_worker_that_recovered_after_its_host_looked_is_not_told_of(hosts: Hosts) -> None:
    """The look is of the beginning of the tick; the teller is asked at its end."""
    hosts.ends = {"backup": WorkerEnd(1, timestamp(SystemClock().now()))}
    hosts.look("alpha")
    configuration = hosts.configuration("alpha")
    place = (configuration.host.state_directory, configuration.nas.mountpoint)
    place[0].mkdir()
    note_end(*place, "backup", ExitCode.DONE, SystemClock())
    for name in ("alpha", "beta"):
        hosts.tell(name)
    assert hosts.got == []
    note_end(*place, "backup", ExitCode.FAILURE, SystemClock())
    hosts.tell("alpha")
    assert "alpha: backup ended with exit code 1" in hosts.titles()[0]


def test_of_a_host_that_tells_nobody_others_say_that_its_workers_fail(hosts: Hosts) -> None:
    hosts.ends, hosts.mute = {"backup": WorkerEnd(1, timestamp(SystemClock().now()))}, {"alpha"}
    hosts.look("alpha")
    hosts.tell("beta")
    assert "alpha: backup ended with exit code 1" in hosts.titles()[0]


def test_of_a_vm_that_was_found_just_now_it_is_not_told_that_it_has_no_copy(hosts: Hosts) -> None:
    found = timestamp(Ahead(-0.75).now())
    hosts.change("web01", status=State.BACKUP_NECESSARY, last_copy=None, verified="", found=found)
    hosts.look()
    hosts.tell("beta")
    assert hosts.got == []
    hosts.change("web01", found=timestamp(Ahead(-1.5).now()))
    hosts.tell("beta")
    assert "web01: it has no copy at all" in hosts.titles()[0]


def test_a_host_that_tells_again_ends_by_itself_what_others_said_of_it(hosts: Hosts) -> None:
    hosts.ends, hosts.mute = {"backup": WorkerEnd(1, timestamp(SystemClock().now()))}, {"alpha"}
    hosts.look("alpha")
    hosts.tell("beta")
    hosts.mute = set()
    hosts.look("alpha")
    hosts.tell("beta")
    assert len(hosts.titles()) == 1, "it has not recovered"
    hosts.ends = {}
    hosts.look("alpha")
    hosts.tell("beta")
    assert len(hosts.titles()) == 1, "alpha tells that by itself"
    hosts.tell("alpha")
    assert "RECOVERED: alpha: over after" in hosts.titles()[1]


def test_a_report_is_sent_once_a_day_by_one_host(hosts: Hosts) -> None:
    hosts.targets = {"mail": {"url": "json://mail", "report": "daily", "report_hour": 0}}
    hosts.targets["chat"] = {"url": "json://chat"}
    for hours in (0, 1, 24, 25):
        hosts.look(hours=hours)
        for name in ("alpha", "beta", "gamma"):
            assert hosts.tell(name) == ExitCode.DONE
    first, second = [message for _, to, message in hosts.got if to == "mail"]
    assert first.title == "vmbackup: all is well: nothing was backed up"
    assert all(vm in second.body for vm in VMS.values())
    assert "(24 h)" in second.body, "from where the last one ended"
    assert not hosts.titles("chat")


def test_two_tellers_at_once_send_one_report(hosts: Hosts) -> None:
    hosts.targets = {"mail": {"url": "json://mail", "report": "weekly"}}
    tellers = [threading.Thread(target=hosts.tell, args=(name,)) for name in VMS]
    hosts.on_send = lambda: hosts.tell("beta") and None
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join()
    assert len(hosts.got) == 1


@pytest.mark.parametrize("sent", [False, True])
def test_a_teller_that_is_killed_with_a_report_is_followed(
    hosts: Hosts, *, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.targets = {"mail": {"url": "json://mail", "report": "daily"}}

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as during:
        if sent:
            during.setattr("shared.state.rules.report_turns.sent", die)
        else:
            hosts.on_send = die
        during.setattr("shared.state.sessions.session.Session.__exit__", lambda *_: None)
        with pytest.raises(Killed):
            hosts.tell("alpha")
    hosts.on_send = lambda: None
    hosts.tell("beta")
    assert len(hosts.got) == sent, "whoever may still live is waited for"
    database = hosts.site().database
    live = deaths.live_sessions(database.head().contents)
    recovery.expire(database, [deaths.Dead(row, "off") for row in live], "database")
    hosts.tell("gamma")
    assert len(hosts.got) == sent + 1


def test_a_report_that_nobody_took_is_sent_by_the_next_host(hosts: Hosts) -> None:
    hosts.targets = {"mail": {"url": "json://mail", "report": "daily"}}
    hosts.answer = "no connection"
    assert hosts.tell("alpha") == ExitCode.FAILURE
    before = hosts.generation
    assert hosts.tell("alpha") == ExitCode.DONE, "not by the same host at once"
    assert hosts.generation == before
    hosts.answer = ""
    hosts.tell("beta")
    assert len(hosts.got) == 1
