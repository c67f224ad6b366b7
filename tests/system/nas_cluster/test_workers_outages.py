"""The real programs on real mounts when it is the NAS that fails, and when clocks disagree.

Whatever happens, a worker ends with a documented exit code, and the ticks after it put everything
right, without an operator. `VMBACKUP_PROVE=1` runs everything on each kind of mount; else some
tests have one or two of them.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from deploy.testbed.nas.cluster import Cluster
from deploy.testbed.nas.job import Job
from tests.support.cluster_site import LEASE_SECONDS, ClusterSite, Template, at_once, look, together
from tests.support.nas_truth import Truth
from tests.support.proving import PROVE
from tests.system.nas_cluster.conftest import KINDS

pytestmark = [pytest.mark.nas("cluster"), pytest.mark.timeout(600)]

Make = Callable[..., "Sites"]

WORKER = "vmbackup-worker"
DONE, SOME_FAILED, LOCK_LOST, NAS = 0, 3, 12, 13
#: VBoxManage exports, which can be made slow.
SLOW = {"engine": "vboxmanage"}


class Sites(dict[str, ClusterSite]):
    """Sites by the kind of their mount."""

    def __init__(self, lan: Cluster, made: Mapping[str, ClusterSite]) -> None:
        super().__init__(made)
        self._lan = lan

    def look(self, **question: object) -> dict[str, Truth]:
        """What is on the NAS; a day passes afterwards."""
        found = look(self._lan, {site: {"age": True, **question} for site in self.values()})
        return dict(zip(self, found, strict=True))


@pytest.fixture
def make_sites(lan: Cluster, template: Template) -> Iterator[Make]:
    """Makes sites: one of each kind of mount, or of some kinds."""
    made: list[ClusterSite] = []

    def make(*some: str, **settings: object) -> Sites:
        sites = at_once(
            lambda kind: ClusterSite(lan, template, kind, **settings),
            KINDS if PROVE else some or KINDS,
        )
        made.extend(sites.values())
        return Sites(lan, sites)

    yield make
    at_once(lambda site: site.remove(), made)


def start(sites: Sites, host: str, *command: str) -> dict[str, Job]:
    return {kind: site.spawn(host, *command) for kind, site in sites.items()}


def run(sites: Sites, host: str, *command: str) -> dict[str, tuple[int, str]]:
    return together(start(sites, host, *command))


def start_exports(sites: Sites, **faults: object) -> dict[str, Job]:
    """A backup worker on host a at each site, with the export of its VM under way."""
    for site in sites.values():
        site.fault("a", **faults)
    jobs = start(sites, "a", WORKER, "-v", "backup")
    for kind, site in sites.items():
        site.wait_for_export(jobs[kind])
    return jobs


def check(ended: Mapping[str, tuple[int, str]], *allowed: int, said: str = "") -> None:
    """All ended with one of these codes, without a fault of the program, and said this."""
    for kind, (status, output) in ended.items():
        assert status in allowed, f"{kind}: status {status}\n{output}"
        assert "Traceback" not in output, f"{kind}: {output}"
        assert said in output, f"{kind}: {output}"


def check_all_right(sites: Sites, mail: str = "CLEAN") -> dict[str, Truth]:
    """The VM of host a has its new copy, the older one is there, and nothing is left."""
    found = sites.look(states={"web": "CLEAN", "mail": mail}, settled=True)
    for kind, truth in found.items():
        assert truth.problems == [], kind
        assert (len(truth.stamps["web"]), truth.live) == (2, []), kind
        assert truth.stamps["web"] != sites[kind].before["web"], kind
    return found


def check_nothing_lost(sites: Sites) -> None:
    for kind, truth in sites.look().items():
        assert truth.problems == [], kind


def tick(sites: Sites) -> None:
    """The next ticks, a day later, with nothing in their way."""
    for site in sites.values():
        site.fault("a")
    sites.look()
    check(run(sites, "a", WORKER, "-v", "database"), DONE)
    check(run(sites, "a", WORKER, "-v", "backup"), DONE)
    check(run(sites, "b", WORKER, "-v", "database"), DONE)


def restart_services(lan: Cluster) -> None:
    lan.server.stop_service()
    time.sleep(2)
    lan.server.start_service()


def lose_power(lan: Cluster) -> None:
    lan.server.kill()
    lan.server.boot()


@pytest.mark.parametrize(("outage", "kind"), [(restart_services, "nfs3"), (lose_power, "smb")])
def test_the_server_goes_away_during_exports(
    make_sites: Make, lan: Cluster, outage: Callable[[Cluster], None], kind: str
) -> None:
    sites = make_sites(kind, **SLOW)
    jobs = start_exports(sites, export_seconds=5)
    outage(lan)
    check(together(jobs), DONE, SOME_FAILED, LOCK_LOST, NAS)
    check_nothing_lost(sites)
    tick(sites)
    check_all_right(sites)


def test_what_is_clean_survives_a_power_cut_of_the_server(make_sites: Make, lan: Cluster) -> None:
    """On SMB the lease on the database and a heartbeat, removed a second ago, can be there again:
    the next tick, of any host, finds out.
    """
    sites = make_sites()
    check(run(sites, "a", WORKER, "-v", "backup"), DONE)
    lose_power(lan)
    for kind, truth in sites.look().items():
        assert (truth.problems, truth.vms["web"]["status"]) == ([], "CLEAN"), kind
    check(run(sites, "b", WORKER, "-v", "run"), DONE)
    check_all_right(sites)


def test_a_nas_that_is_unmounted_during_an_export_leaves_the_empty_directory_empty(
    make_sites: Make,
) -> None:
    sites = make_sites("nfs", **SLOW)
    jobs = start_exports(sites, export_hangs_at=50)
    for site in sites.values():
        site.unmount("a")
    check(together(jobs), LOCK_LOST, NAS)
    check(run(sites, "a", WORKER, "-v", "run"), NAS, said="nothing is mounted")
    for site in sites.values():
        assert site.names_in_mount_point("a") == []
        site.mount("a")
    check_nothing_lost(sites)
    tick(sites)
    check_all_right(sites)


def test_another_nas_in_its_place_is_refused(make_sites: Make, lan: Cluster) -> None:
    sites = make_sites("smb")
    check(run(sites, "a", WORKER, "-v", "vmfind"), DONE)  # from now on it knows its NAS
    for kind, site in sites.items():
        for name, said in (("empty", "holds no state database"), ("other", "holds the repository")):
            foreign = site.make_directory(name)
            if name == "other":
                site.found("b", foreign)
            before = lan["b"].check("find", f"/mnt/{kind}/{foreign}")
            site.unmount("a")
            site.mount("a", foreign)
            check({kind: site.run("a", WORKER, "-v", "run")}, NAS, said=said)
            assert lan["b"].check("find", f"/mnt/{kind}/{foreign}") == before
        site.unmount("a")
        site.mount("a")
    tick(sites)
    check_all_right(sites)


def test_a_nas_that_fills_up_during_exports_loses_nothing(make_sites: Make, lan: Cluster) -> None:
    sites = make_sites("nfs3", **SLOW)
    jobs = start_exports(
        sites, export_seconds=20
    )  # longer than it takes to fill the disk, on a busy machine too
    lan.server.fill_disk()
    try:
        check(together(jobs), SOME_FAILED, LOCK_LOST, NAS)
        check_nothing_lost(sites)
        check(
            run(sites, "a", WORKER, "-v", "run"), SOME_FAILED, NAS
        )  # if that it failed could not be noted, the whole tick says so
        check(run(sites, "b", WORKER, "-v", "database"), DONE, SOME_FAILED, NAS)
        check_nothing_lost(sites)
    finally:
        lan.server.free_disk()
    tick(sites)
    check_all_right(sites)


def test_a_read_only_nas_loses_nothing(make_sites: Make, lan: Cluster) -> None:
    sites = make_sites("nfs")
    lan.server.make_read_only()
    try:
        check(run(sites, "a", WORKER, "-v", "backup"), NAS)
        check(run(sites, "b", WORKER, "-v", "database"), DONE, NAS)
    finally:
        lan.server.make_writable()
    check_nothing_lost(sites)
    tick(sites)
    check_all_right(sites)


def test_hosts_whose_clocks_are_an_hour_apart_leave_each_other_alone(
    make_sites: Make, lan: Cluster
) -> None:
    """Each exports for longer than the lease time while the other one judges who is alive.

    Nothing is done twice.
    """
    sites = make_sites("smb", **SLOW)
    lan["a"].set_clock(3600)
    for site in sites.values():
        site.fault("b", export_seconds=LEASE_SECONDS * 1.5)
    exporting = start_exports(sites, export_seconds=LEASE_SECONDS * 1.5)
    check(run(sites, "b", WORKER, "-v", "notifier"), DONE)
    exporting |= {
        f"{kind}, b": site.spawn("b", WORKER, "-v", "backup") for kind, site in sites.items()
    }
    judging = {
        (kind, host): site.spawn(host, WORKER, "-v", "database")
        for kind, site in sites.items()
        for host in ("a", "b")
    }
    for (kind, host), (status, output) in together(judging).items():
        assert status == DONE, (kind, host, output)
        assert "is dead" not in output, (kind, host, output)
    check(together(exporting), DONE)
    stamps = {kind: truth.stamps for kind, truth in check_all_right(sites).items()}
    for host in ("b", "a"):
        check(run(sites, host, WORKER, "-v", "run"), DONE)
        for kind, (_, output) in run(sites, host, "vmbackup-admin", "status", "--json").items():
            ages = [row["last_copy"]["age_seconds"] for row in json.loads(output)["vms"]]
            # a copy that is dated an hour ahead has no age, and is warned about
            assert all((age is None and host == "b") or 0 <= age < 2 * 3600 for age in ages), (
                kind,
                host,
                ages,
            )
    assert {kind: truth.stamps for kind, truth in check_all_right(sites).items()} == stamps
