"""One suite, two kinds of host.

What the product relies on is true of the real VirtualBox, and of the simulated one alike.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.engine_vms import Bench
from tests.contract.exporting import Export
from tests.support.hosts import VirtualBoxHost, VirtualMachine
from tests.support.simulated import SimulatedHost
from tests.support.virtualbox import Testbed

_numbers = itertools.count(1)
KINDS = ["simulated", pytest.param("real", marks=pytest.mark.virtualbox)]


@pytest.fixture(scope="module", params=KINDS)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VirtualBoxHost]:
    """A VirtualBox host for the tests of one file."""
    made: VirtualBoxHost
    if request.param == "real":
        made = request.getfixturevalue("virtualbox_testbed").host()
    else:
        made = SimulatedHost(tmp_path_factory.mktemp("simulated"), "alpha")
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def bench(virtualbox_testbed: Testbed) -> Iterator[Bench]:
    """A real host with the engines, for the tests of one file."""
    host = virtualbox_testbed.host()
    try:
        yield Bench(host)
    finally:
        host.remove()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A VM name that no other test uses."""
    return request.node.originalname.removeprefix("test_").replace("_", "-")


@pytest.fixture
def vm(host: VirtualBoxHost, name: str) -> VirtualMachine:
    """A small VM, stopped."""
    return host.make_vm(name)


@pytest.fixture
def folder(host: VirtualBoxHost) -> Path:
    """An empty directory that the host sees."""
    path = host.folder / f"out-{next(_numbers)}"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def slow_vm(host: VirtualBoxHost) -> VirtualMachine:
    """A VM whose export takes some seconds. It is stopped, and a test must leave it as it was."""
    return make_slow_vm(host, "slow")


def make_slow_vm(host: VirtualBoxHost, name: str) -> VirtualMachine:
    if isinstance(host, SimulatedHost):
        vm = host.make_vm(name, mib=40, random_mib=32)
        host.fault(vm, export_seconds=4)
        return vm
    return host.make_vm(name, mib=152, random_mib=150)


@pytest.fixture
def begin_export(host: VirtualBoxHost, folder: Path) -> Iterator[Callable[..., Export]]:
    """Starts exports that are under way when it returns.

    Those that still run at the end are cancelled.
    """
    begun: list[Export] = []

    def begin(vm: VirtualMachine, target: str = "x.ova") -> Export:
        begun.append(Export(host, vm, folder / target))
        return begun[-1]

    yield begin
    for export in begun:
        export.cancel()
