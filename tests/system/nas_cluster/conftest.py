"""What a test in the cluster sees.

A NAS and two hosts, one kernel each, all in order when the test begins.
"""

from collections.abc import Iterator

import pytest

from deploy.testbed.nas.cluster import Cluster
from tests.support.cluster_site import Template

KINDS = ("nfs", "nfs3", "smb")


@pytest.fixture(scope="session")
def machines() -> Iterator[Cluster]:
    """The machines, booted once."""
    with Cluster(["a", "b"], memory_mib=768) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def template(machines: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """What every site begins with, see `tests.support.cluster_site`."""
    return Template(machines, tmp_path_factory.mktemp("template"))


@pytest.fixture
def lan(machines: Cluster) -> Iterator[Cluster]:
    """The machines, put in order again after the test.

    A machine that was killed is booted by the test that killed it.
    """
    yield machines
    for name in ("a", "b"):
        machines[name].heal()
        machines[name].resume()
        machines[name].set_clock(0)
