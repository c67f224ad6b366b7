"""Whether a backup is all right: a host stops looking, and another one finds out."""

import json
import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from shared.host.clock import SystemClock, timestamp
from shared.state.sessions.host_look import PREFIX
from shared.tasks.judgement import Level
from shared.tasks.verdicts import Verdicts, judge
from tests.simulated.conftest import Rig
from worker import database, notifier, vmfind
from worker.backup import worker as backup


def tick(rig: Rig, name: str) -> None:
    """What cron starts, ten minutes after the time before: all of the past moves back."""
    for place in (rig.nas / "vmstate" / "node").glob(f"{PREFIX}*"):
        age(place, 600)
    site = rig.site(name)
    vmfind.run(site)
    notifier.run(site)
    backup.run(site)


def age(place: os.PathLike[str], seconds: float) -> None:
    """Makes a look so much older, by the clock of the NAS and by that of its host."""
    path = Path(place)
    modified = path.stat().st_mtime - seconds
    document = json.loads(path.read_bytes())
    document["written"] -= seconds
    for known in ("since", "known"):
        document[known] = document.get(known) and document[known] - seconds
    document["before"] = [moment - seconds for moment in document["before"]]
    for broken in document.get("breaks", []):
        broken[:] = [moment - seconds for moment in broken]
    for known in ("vms", "unchanged"):
        document[known] = {
            uuid: moment and moment - seconds for uuid, moment in document[known].items()
        }
    path.write_text(json.dumps(document), encoding="utf-8")
    os.utime(path, (modified, modified))


def seen_by(rig: Rig, name: str) -> Verdicts:
    site = rig.site(name)
    return judge(site, site.database.head().contents)


@pytest.fixture
def two(rig: Rig) -> Rig:
    """Two hosts with a VM each, both copied, that have looked for half an hour."""
    rig.host("alpha").make_vm("web01")
    rig.host("beta").make_vm("db01")
    for _ in range(3):
        tick(rig, "alpha")
        tick(rig, "beta")
    return rig


def kinds(found: Verdicts) -> dict[str, str]:
    return {verdict.subject: verdict.kind for verdict in found.all}


def test_two_hosts_that_look_and_copies_that_are_good_are_all_right(two: Rig) -> None:
    found = seen_by(two, "beta")
    assert found.level == Level.OK, found.all
    assert kinds(found) == {
        "NAS": "room",
        "alpha": "looks",
        "beta": "looks",
        "web01": "copied",
        "db01": "copied",
    }


def test_a_host_that_stops_is_found_out_by_the_other_and_so_is_its_return(two: Rig) -> None:
    for _ in range(8):  # each host looks every twenty minutes
        tick(two, "beta")
    found = seen_by(two, "beta")
    assert found.level == Level.CRITICAL, found.all
    assert (kinds(found)["alpha"], kinds(found)["web01"]) == ("silent", "unlooked")
    assert (kinds(found)["beta"], kinds(found)["db01"]) == ("looks", "copied")
    tick(two, "alpha")
    assert seen_by(two, "beta").level == Level.OK


def judge_at(rig: Rig, name: str, **options: float) -> Verdicts:
    site = rig.site(name)
    return judge(site, site.database.head().contents, **options)  # type: ignore[arg-type]


def antedate(rig: Rig, key: str, finished: str) -> None:
    """The newest copy of the VM is as old as that."""
    record = rig.record(key)
    assert record.last_copy is not None
    older = replace(record, last_copy=replace(record.last_copy, finished=finished))
    rig.site().database.commit_once(lambda contents: contents.with_vm(older), "test", "test")


def test_a_vm_that_was_used_is_overdue_only_when_its_copy_is(rig: Rig) -> None:
    two, used = rig, rig.host("alpha").make_vm("web01")
    for _ in range(3):
        tick(two, "alpha")
    used.start()
    tick(two, "alpha")
    assert kinds(seen_by(two, "alpha"))["web01"] == "running"
    last = judge_at(two, "alpha", max_age_seconds=1300)
    assert kinds(last)["web01"] == "running", "it was seen unchanged twenty minutes ago"
    for _ in range(2):
        tick(two, "alpha")
    late = judge_at(two, "alpha", max_age_seconds=1300)
    assert kinds(late)["web01"] == "running", "by its copy, which is young"
    copied = timestamp(SystemClock().now() - timedelta(hours=9))
    antedate(two, "web01", copied)
    late = judge_at(two, "alpha", max_age_seconds=1300)
    assert kinds(late)["web01"] == "overdue"


def test_a_vm_whose_settings_are_gone_is_told_of_at_once_and_stays_so(two: Rig) -> None:
    """From any host, with the reason; its host looks, so it is never said to be off."""
    vm = two.host().vms / "web01" / "web01.vbox"
    away = vm.rename(vm.with_name("away"))
    tick(two, "alpha")
    for name in ("alpha", "beta"):
        found = judge_at(two, name, max_age_seconds=300)
        (said,) = (each for each in found.vms if each.subject == "web01")
        assert (said.level, said.kind) == (Level.WARNING, "unusable")
        assert str(vm) in said.reason
    away.rename(vm)
    tick(two, "alpha")
    assert kinds(seen_by(two, "beta"))["web01"] == "copied"


def test_a_lost_file_is_unknown_and_made_again(two: Rig) -> None:
    (two.nas / "vmstate" / "node" / f"{PREFIX}alpha").unlink()
    found = seen_by(two, "beta")
    assert (found.level, kinds(found)["alpha"]) == (Level.UNKNOWN, "unknown")
    tick(two, "alpha")
    assert seen_by(two, "beta").level == Level.OK


def test_the_database_worker_leaves_the_file_of_a_host_that_is_off(two: Rig) -> None:
    place = two.nas / "vmstate" / "node" / f"{PREFIX}alpha"
    age(place, 9 * 86400)
    stranger = place.with_name(f"{PREFIX}stranger")
    stranger.write_text("{}", encoding="utf-8")
    long_ago = time.time() - 9 * 86400
    os.utime(stranger, (long_ago, long_ago))
    database.run(two.site("beta"))
    assert place.exists()
    assert not stranger.exists(), "one that no host of the database has is swept like all debris"


def test_a_worker_of_a_host_whose_clock_is_an_hour_ahead_looks_on_time(
    two: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SystemClock.now
    monkeypatch.setattr(SystemClock, "now", lambda self: real(self) + timedelta(hours=1))
    tick(two, "beta")
    found = seen_by(two, "beta")
    assert kinds(found)["beta"] == "looks"
    assert kinds(found)["alpha"] == "looks"
