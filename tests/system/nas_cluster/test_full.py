"""A NAS that is really full is cleared by the programs, from two hosts at once."""

from collections.abc import Iterator

import pytest

from deploy.testbed.nas.cluster import Cluster
from tests.support.cluster_site import ClusterSite, Template, at_once, together
from tests.system.nas_cluster.conftest import KINDS

pytestmark = [pytest.mark.nas("cluster"), pytest.mark.timeout(600)]

ADMIN, WORKER = "vmbackup-admin", "vmbackup-worker"
DONE, NAS = 0, 13


@pytest.fixture
def sites(lan: Cluster, template: Template) -> Iterator[dict[str, ClusterSite]]:
    """A site on each kind of mount, each with a reserve, on a disk without a free block."""
    made = at_once(lambda kind: ClusterSite(lan, template, kind), KINDS)
    try:
        for ended in together(
            {kind: site.spawn("a", WORKER, "database") for kind, site in made.items()}
        ).values():
            assert ended[0] == DONE, ended
        lan.server.fill_disk()
        yield made
    finally:
        lan.server.free_disk()
        at_once(lambda site: site.remove(), made.values())


def run(sites: dict[str, ClusterSite], host: str, *command: str) -> dict[str, tuple[int, str]]:
    return together({kind: site.spawn(host, *command) for kind, site in sites.items()})


def test_two_hosts_pin_archive_and_remove_on_a_full_nas(
    lan: Cluster, template: Template, sites: dict[str, ClusterSite]
) -> None:
    (web, _), (mail, _) = template.stamps["web"], template.stamps["mail"]
    jobs = {
        (kind, host): site.spawn(host, ADMIN, "pin", vm, stamp)
        for kind, site in sites.items()
        for host, vm, stamp in (("a", "web", web), ("b", "mail", mail))
    }
    for key, (status, output) in together(jobs).items():
        assert status == DONE, (key, output)
    for command in (("unpin", "web", web), ("remove", "web", web, "--yes"), ("archive", "mail")):
        for kind, (status, output) in run(sites, "b", ADMIN, *command).items():
            assert status == DONE, (kind, command, output)
    for kind, (_, output) in run(sites, "a", ADMIN, "status").items():
        assert "there is no reserve" in output, kind
    lan.server.free_disk()
    for host, command in (("b", (WORKER, "database")), ("a", (ADMIN, "status"))):
        for kind, (status, output) in run(sites, host, *command).items():
            assert (status, "there is no reserve" in output) == (DONE, False), (kind, output)
