"""From end to end, by the installed programs: a host stops, and another one alone finds out."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.host.host_lock import host_lock
from shared.state.sessions.host_look import PREFIX
from tests.support.fleet import Fleet, Member
from tests.support.receivers import Mailbox, Website, mailbox, website
from tests.support.simulated import SimulatedHost

Targets = tuple[Mailbox, Website]


@pytest.fixture(scope="module")
def servers() -> Iterator[Targets]:
    """A real mail server and a real web server."""
    with mailbox() as box, website() as site:
        yield box, site


@pytest.fixture
def targets(servers: Targets) -> Targets:
    """The same, when they have got nothing."""
    box, site = servers
    box.server.got.clear()
    site.requests.clear()
    site.delay = 0
    return servers


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory, servers: Targets) -> tuple[Fleet, Path]:
    """The fleet when both have backed up, and a copy of its folder."""
    folder = tmp_path_factory.mktemp("told")
    made = Fleet(folder / "fleet")
    box, site = servers
    (made.folder / "web-url").write_text(site.url, encoding="utf-8")
    for name in ("alpha", "beta"):
        member = made.add(SimulatedHost(made.folder / "hosts", name))
        member.configure("notify.mail", url=box.url)
        member.configure("notify.web", url=f"file:{made.folder}/web-url")
        member.configure("ping", url=f"{site.ping}-{name}")
        member.host.make_vm(f"vm-{name}", mib=1, random_mib=0)
        for worker in ("vmfind", "notifier", "backup"):
            member.worker(worker)
    subprocess.run(["cp", "-a", "--sparse=always", made.folder, folder / "kept"], check=True)
    return made, folder / "kept"


@pytest.fixture
def fleet(settled: tuple[Fleet, Path], targets: Targets) -> Fleet:
    """Two hosts with a VM each, both copied, that tell both targets and have looked for hours."""
    made, kept = settled
    shutil.rmtree(made.folder)
    subprocess.run(["cp", "-a", "--sparse=always", kept, made.folder], check=True)
    for name, member in made.members.items():
        looked(made, name, 0)
        member.configure("notify.mail", url=targets[0].url, severities=["critical", "unknown"])
        member.configure("ping", url=f"{targets[1].ping}-{name}")
    return made


def looked(fleet: Fleet, name: str, ago: float) -> None:
    """A host has looked every ten minutes for hours, and did so for the last time so long ago."""
    place = fleet.nas / "vmstate" / "node" / f"{PREFIX}{name}"
    document = json.loads(place.read_bytes())
    last = time.time() - ago
    times = dict.fromkeys(document["vms"], 0)
    document |= {
        "written": last,
        "since": last - 36000,
        "before": [last - 600 * number for number in (5, 4, 3, 2, 1)],
        "interval": 600,
        "vms": times,
        "unchanged": times,
    }
    place.write_text(json.dumps(document), encoding="utf-8")
    os.utime(place, (last, last))


def runs(member: Member) -> None:
    """What cron starts."""
    member.worker("run")


def subjects(box: Mailbox) -> list[str]:
    return [str(mail["Subject"]) for mail in box.got]


def test_a_host_whose_cron_stops_is_told_once_and_so_is_its_return(
    fleet: Fleet, targets: Targets
) -> None:
    box, site = targets
    alpha, beta = fleet.members["alpha"], fleet.members["beta"]
    runs(beta)
    assert (subjects(box), site.got) == ([], [])
    assert beta.admin("check", expect=None).status == 0
    looked(fleet, "alpha", 7200)
    runs(beta)
    beta.worker("database")
    silent = "vmbackup: CRITICAL: alpha: its workers have stopped, or it is off (2 h)"
    assert subjects(box) == [silent]
    assert [document["title"] for document in site.got] == [silent]
    assert "vm-alpha" not in box.got[0].get_content(), "one cause is told once"
    check = beta.admin("check", expect=None)
    assert (check.status, "alpha: its workers have stopped" in check.stdout) == (2, True)
    shown = beta.admin("notify", "--json").json["events"]
    assert [(row["name"], row["kind"], sorted(row["targets"])) for row in shown] == [
        ("alpha", "silent", ["mail", "web"])
    ]
    runs(alpha)
    runs(beta)
    alpha.worker("database")
    over = "vmbackup: RECOVERED: alpha: over after"
    assert [subject.startswith(over) for subject in subjects(box)[1:]] == [True]
    assert [document["title"].startswith(over) for document in site.got[1:]] == [True]
    assert beta.admin("check", expect=None).status == 0
    assert (fleet.litter(), beta.admin("notify", "--json").json["events"]) == ([], [])
    asked = [path for path, _ in site.pings]
    assert asked == [
        f"/uuid-{name}{what}"
        for name in ("beta", "beta", "beta", "alpha", "beta", "alpha")
        for what in ("/start", "")
    ], "also of a database worker that no run has started"


def test_a_teller_that_is_killed_while_it_sends_is_followed_by_the_next_tick(
    fleet: Fleet, targets: Targets
) -> None:
    """Its process is shown, its machine is as good as off, and no secret is in its arguments."""
    box, site = targets
    beta = fleet.members["beta"]
    beta.configure("notify.mail", severities=["unknown"])
    looked(fleet, "alpha", 7200)
    site.delay = 15
    process = beta.start("vmbackup-worker", "tell")
    end, workers = time.monotonic() + 60, list[str]()
    while not ("tell" in workers and site.got) and time.monotonic() < end:
        locks = beta.run("vmbackup-lock", "list", "--json").json["locks"]
        workers = [lock["worker"] for lock in locks]
    assert "tell" in workers
    seen = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert "127.0.0.1:" + str(site.port) not in seen
    process.send_signal(signal.SIGKILL)
    process.communicate()
    site.delay = 0
    site.requests.clear()
    beta.worker("database")
    assert [document["title"][:26] for document in site.got] == ["vmbackup: CRITICAL: alpha:"]
    beta.worker("tell")
    assert (len(site.got), box.got) == (1, [])


def test_targets_that_do_not_answer_fail_no_backup(fleet: Fleet, targets: Targets) -> None:
    alpha = fleet.members["alpha"]
    alpha.configure("notify.mail", url="mailto://127.0.0.1:1?from=a@b.example&to=c@d.example")
    alpha.configure("ping", url="http://127.0.0.1:1/hunter2")
    looked(fleet, "beta", 7200)
    began = time.monotonic()
    done = alpha.worker("run")
    assert time.monotonic() - began < 90
    assert "hunter2" not in done.stderr + done.stdout
    assert "the ping was not heard" in done.stderr
    assert "the target mail takes nothing" in done.stderr
    assert len(fleet.copies("vm-alpha")) == 1
    assert [document["title"][:25] for document in targets[1].got] == ["vmbackup: CRITICAL: beta:"]
    for path in fleet.nas.rglob("*"):
        if path.is_file() and path.suffix != ".ova":
            assert b"hunter2" not in path.read_bytes()
            assert b"/hook" not in path.read_bytes()


def test_a_run_beside_one_that_hangs_pings_no_success(fleet: Fleet, targets: Targets) -> None:
    beta = fleet.members["beta"]
    state = fleet.folder / "state-beta"
    with host_lock(state, "vmfind-0") as one, host_lock(state, "notifier-0") as other:
        assert (one, other) == (True, True)
        assert beta.worker("run", expect=None).status == 0
    assert [path for path, _ in targets[1].pings] == ["/uuid-beta/start"]
    beta.worker("run")
    assert targets[1].pings[-1][0] == "/uuid-beta"
