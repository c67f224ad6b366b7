"""The table of VMs, on the real VirtualBox: each cell is backed up, or refused as expected."""

import hashlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.kinds import oracle
from tests.kinds.axes import Cell, drawn, size
from tests.kinds.expectation import left_out, refusal, restored_kind
from tests.kinds.world import SIZE, Made, build
from tests.support.drawing import SEED
from tests.support.fleet import Fleet, Member
from tests.support.packages import require
from tests.support.proving import PROVE_SECONDS, only_when_proving
from tests.support.virtualbox import RealHost, RealVm
from tests.support.vm_settings import disks_of, kinds_of_disks

pytestmark = pytest.mark.virtualbox
_BATCH = 3


@dataclass(frozen=True)
class Pair:
    """The host that has the VMs, and another one that restores them."""

    first: Member
    other: Member


@pytest.fixture
def pair(make_virtualbox_host: Callable[[], RealHost], tmp_path: Path) -> Pair:
    """Two real hosts with one NAS directory."""
    require("qemu-img", "qemu-utils")
    fleet = Fleet(tmp_path)
    pair = Pair(fleet.add(make_virtualbox_host()), fleet.add(make_virtualbox_host()))
    pair.first.configure('policy."*-original"', backup="never")
    return pair


def examined(pair: Pair, made: Made, before: oracle.Standing) -> str:
    """Looks at what became of a cell. AssertionError if it is not what must be."""
    cell, key, member = made.cell, made.name, pair.first
    record, word = member.fleet.record(key), refusal(made.cell)
    after = oracle.standing(made.vm)
    # with snapshots VirtualBox itself writes `localhost-reachable` of a NAT anew, now and then
    changed = sorted(line for line in after.settings ^ before.settings if "/NAT " not in line)
    assert changed == [], f"the settings of the VM are not as they were: {changed}, {cell}"
    same = replace(after, since=before.since, settings=before.settings)
    assert same == before, f"{after.state}, {after.snapshots}: not as it was found, {cell}"
    if word:
        assert after.since == before.since, f"an outage for nothing: {cell}"
        assert record.failures == 1, (cell, record.last_error)
        assert word in record.last_error, cell
        return "refused"
    assert record.failures == 0, (cell, record.last_error)
    (copy,) = member.fleet.copies(key)
    ova = copy.directory / f"{copy.stamp}.ova"
    digests = oracle.disks_in(ova, member.fleet.folder / f"disks-{key[:3]}", SIZE)
    assert hashlib.sha256(made.content).hexdigest() in digests, cell
    said = oracle.left_out(copy.directory / f"{copy.stamp}.json")
    assert [each for each in left_out(cell) if each not in said] == [], (cell, said)
    oracle.imported(member.host, ova, f"back-{key[:3]}")
    restored(pair.other, made, before)
    return "backed up"


def restored(member: Member, made: Made, before: oracle.Standing) -> None:
    """Restores the newest copy on this host, and compares. AssertionError if it is not like it."""
    place = str(member.host.vms / made.name[:3])
    ran = member.admin("restore", made.name, "--to", place, "--json").json
    back = RealVm(member.host, ran["uuid"], made.name)
    assert oracle.unlike(before.settings, back) == [], (made.cell, ran)
    assert kinds_of_disks(back.settings)[made.place] == restored_kind(made.cell), made.cell
    digest = hashlib.sha256(made.content).hexdigest()
    assert oracle.first_bytes(back, made.place, SIZE) == digest, made.cell
    if not made.cell.runs:
        assert disks_of(back) == disks_of(made.vm), made.cell
    member.host.run("unregistervm", back.uuid)


def run(pair: Pair, cells: list[Cell], first: int) -> Counter[str]:
    """One tick of a host that has just these VMs; they are gone afterwards."""
    member, host = pair.first, pair.first.host
    made = []
    for number, cell in enumerate(cells, first):
        try:
            made.append(build(host, cell, number))
        except AssertionError as error:  # VirtualBox has faults of its own, which are not asked for
            print(f"VirtualBox cannot make {cell}: {error}")
            _take_away(host, number)
            continue
        policy = {"running": cell.running, "running_hours": 0, "engine": cell.engine}
        member.configure(f'policy."{number:03}-*"', **policy)
    before = {one.name: oracle.standing(one.vm) for one in made}
    vms = oracle.listed(host)
    failing = any(refusal(one.cell) for one in made)
    member.worker("run", expect=3 if failing else 0)
    assert oracle.listed(host) == vms, "a backup has left a VM"
    done = Counter(examined(pair, one, before[one.name]) for one in made)
    for one in made:
        state = one.vm.info("VMState")
        if state in ("running", "paused"):
            one.vm.stop()
        elif state == "saved":
            host.run("discardstate", one.vm.uuid)
        host.run("unregistervm", one.vm.uuid)  # its disks may be of types that are not deleted
        host.run("unregistervm", f"{one.name[:3]}-original", check=False)
    done["not made"] = len(cells) - len(made)
    return done


def _take_away(host: RealHost, number: int) -> None:
    """What there is of a VM that could not be made, off and out of the list."""
    listed = host.run("list", "vms").stdout
    for uuid in re.findall(rf'^"{number:03}-.*\{{([0-9a-f-]{{36}})\}}$', listed, re.MULTILINE):
        host.run("controlvm", uuid, "poweroff", check=False)
        host.run("discardstate", uuid, check=False)
        RealVm(host, uuid, "").wait_for_state("poweroff", "aborted")
        host.run("unregistervm", uuid)


def batches(seed: int) -> Iterator[list[Cell]]:
    cells = drawn(seed)
    while True:
        yield list(itertools.islice(cells, _BATCH))


def test_a_few_cells(pair: Pair) -> None:
    done = run(pair, next(batches(SEED)), 1)
    print(f"cells of {size()}: {dict(done)}")
    assert done.total() == _BATCH


@only_when_proving
@pytest.mark.timeout(PROVE_SECONDS + 600)
def test_as_many_cells_as_there_is_time_for(pair: Pair) -> None:
    end, done = time.monotonic() + PROVE_SECONDS, Counter[str]()
    for number, cells in enumerate(batches(SEED)):
        done += run(pair, cells, 1 + number * _BATCH)
        print(f"cells of {size()}: {dict(done)}")
        if time.monotonic() >= end:
            break
    assert done["backed up"]
    assert done["refused"]
