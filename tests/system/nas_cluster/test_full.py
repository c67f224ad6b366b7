"""A NAS that is really full is cleared by the programs, from two hosts at once."""

from collections.abc import Iterator

import pytest

from deploy.testbed.nas.cluster import Cluster
from tests.support.cluster_site import ClusterSite, Template, together
from tests.system.nas_cluster.conftest import KINDS

pytestmark = [pytest.mark.nas("cluster"), pytest.mark.timeout(600)]

ADMIN, WORKER = "vmbackup-admin", "vmbackup-worker"


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, lan: Cluster, template: Template) -> Iterator[ClusterSite]:
    """A site with a reserve on a disk without a free block; no other one gives up room there."""
    made = ClusterSite(lan, template, request.param)
    try:
        assert made.run("a", WORKER, "database")[0] == 0
        lan.server.fill_disk()
        yield made
    finally:
        lan.server.free_disk()
        made.remove()


def test_two_hosts_pin_remove_and_archive_on_a_full_nas(
    lan: Cluster, template: Template, site: ClusterSite
) -> None:
    (web, _), (mail, _) = template.stamps["web"], template.stamps["mail"]
    jobs = {
        host: site.spawn(host, ADMIN, "pin", vm, stamp)
        for host, vm, stamp in (("a", "web", web), ("b", "mail", mail))
    }
    for host, (status, output) in together(jobs).items():
        assert status == 0, (host, output)
    for command in (("unpin", "web", web), ("remove", "web", web, "--yes"), ("archive", "mail")):
        status, output = site.run("b", ADMIN, *command)
        assert status == 0, (command, output)
    assert "there is no reserve" in site.run("a", ADMIN, "status")[1]
    lan.server.free_disk()
    assert site.run("b", WORKER, "database")[0] == 0
    status, output = site.run("a", ADMIN, "status")
    assert (status, "there is no reserve" in output) == (0, False), output
