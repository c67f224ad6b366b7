"""The table of VMs, on the real VirtualBox: each cell is backed up, or refused as expected."""

import hashlib
import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kinds import oracle
from tests.kinds.axes import Cell, drawn, size
from tests.kinds.expectation import refusal
from tests.kinds.world import SIZE, Made, build
from tests.support.fleet import Fleet, Member
from tests.support.packages import require
from tests.support.proving import PROVE_SECONDS, only_when_proving
from tests.support.virtualbox import RealHost, RealVm

pytestmark = pytest.mark.virtualbox
_BATCH = 3


@pytest.fixture
def member(make_virtualbox_host: Callable[[], RealHost], tmp_path: Path) -> Member:
    """A real host with a NAS directory."""
    require("qemu-img", "qemu-utils")
    return Fleet(tmp_path).add(make_virtualbox_host())


@pytest.fixture
def seed() -> int:
    """That of this run; with VMBACKUP_KINDS_SEED the same again."""
    said = os.environ.get("VMBACKUP_KINDS_SEED", "") or str(int.from_bytes(os.urandom(4)))
    print(f"VMBACKUP_KINDS_SEED={said}")
    return int(said)


def examined(member: Member, made: Made, before: tuple[str, int]) -> str:
    """Looks at what became of a cell. AssertionError if it is not what must be."""
    cell, key = made.cell, made.name
    record, word = member.fleet.record(key), refusal(made.cell)
    assert oracle.standing(made.vm) == before, "the VM is not as it was found"
    if word:
        assert record.failures == 1, (cell, record.last_error)
        assert word in record.last_error, cell
        return "refused"
    assert record.failures == 0, (cell, record.last_error)
    (copy,) = member.fleet.copies(key)
    ova = copy.directory / f"{copy.stamp}.ova"
    digests = oracle.disks_in(ova, member.fleet.folder / f"disks-{key[:3]}", SIZE)
    assert hashlib.sha256(made.content).hexdigest() in digests, cell
    oracle.imported(member.host, ova, f"back-{key[:3]}")
    return "backed up"


def run(member: Member, cells: list[Cell], first: int) -> Counter[str]:
    """One tick of a host that has just these VMs; they are gone afterwards."""
    host = member.host
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
    done = Counter(examined(member, one, before[one.name]) for one in made)
    for one in made:
        state = one.vm.info("VMState")
        if state in ("running", "paused"):
            one.vm.stop()
        elif state == "saved":
            host.run("discardstate", one.vm.uuid)
        host.run("unregistervm", one.vm.uuid)  # its disks may be of types that are not deleted
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


def test_a_few_cells(member: Member, seed: int) -> None:
    done = run(member, next(batches(seed)), 1)
    print(f"cells of {size()}: {dict(done)}")
    assert done.total() == _BATCH


@only_when_proving
@pytest.mark.timeout(PROVE_SECONDS + 600)
def test_as_many_cells_as_there_is_time_for(member: Member, seed: int) -> None:
    end, done = time.monotonic() + PROVE_SECONDS, Counter[str]()
    for number, cells in enumerate(batches(seed)):
        done += run(member, cells, 1 + number * _BATCH)
        print(f"cells of {size()}: {dict(done)}")
        if time.monotonic() >= end:
            break
    assert done["backed up"]
    assert done["refused"]
