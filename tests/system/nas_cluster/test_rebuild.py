"""A state database that is lost is made anew on real NFS and SMB mounts.

Cut off, deleted, a foreign or an older one in its place; with archived and pinned copies, and two
VMs of one name. One host makes it, the other one refuses it until it is told, and then both go on.

`make prove` has each loss on each kind of mount, `make test` one for each kind, and CI one on one
kind: each run draws which.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from deploy.testbed.nas.cluster import Cluster
from tests.support.cluster_site import ClusterSite, Template, look, together
from tests.support.drawing import SEED, TOLD, drawn
from tests.support.proving import PROVE
from tests.system.nas_cluster.conftest import KINDS

pytestmark = [pytest.mark.nas("cluster"), pytest.mark.timeout(600)]

ADMIN, WORKER = "vmbackup-admin", "vmbackup-worker"
#: Cuts off every generation. A new file in its place: the server would not cut one off of which an
#: NFS client holds a delegation.
_CUT: Final = """
find "$1/vmstate/gen" -type f | while read -r file
do head -c 40 "$file" >"$file.cut"; mv -f "$file.cut" "$file"
done
sync -f "$1"
"""
#: What host a does on the NAS, in the site ($1) and beside it.
_KEEP: Final = 'mkdir "$1-kept"; cp -a "$1/vmstate" "$1-kept"'
_PUT_BACK: Final = 'rm -rf "$1/vmstate"; mv "$1-kept/vmstate" "$1"'
_MOVE_IN: Final = 'rm -rf "$1/vmstate"; mv "$1-other/vmstate" "$1"'
_MOVE_AWAY: Final = 'mkdir "$1-away"; mv "$1/vmstate" "$1-away"'


@pytest.fixture(scope="module")
def template(machines: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Host b has a VM `web`, too."""
    return Template(machines, tmp_path_factory.mktemp("namesakes"), namesakes=True)


def _cut(lan: Cluster, site: ClusterSite) -> None:
    lan.server.check("sh", "-ec", _CUT, "sh", site.directory)


def _deleted(lan: Cluster, site: ClusterSite) -> None:
    _by_a(lan, site, 'rm -rf "$1/vmstate"')


def _foreign(lan: Cluster, site: ClusterSite) -> None:
    site.found("a", site.make_directory("other"))
    _by_a(lan, site, _MOVE_IN)


def _older(lan: Cluster, site: ClusterSite) -> None:
    """Of before the archive and the pins."""
    _by_a(lan, site, _PUT_BACK)


#: How the database is lost, and whether one that can be read is there then.
LOSSES: Final[dict[str, tuple[Callable[[Cluster, ClusterSite], None], bool]]] = {
    "cut": (_cut, False),
    "deleted": (_deleted, False),
    "foreign": (_foreign, True),
    "older": (_older, True),
}
CASES: Final = [
    (kind, list(LOSSES)[(SEED + number) % len(LOSSES)]) for number, kind in enumerate(KINDS)
]


def _by_a(lan: Cluster, site: ClusterSite, script: str) -> None:
    """Does something on the NAS through the mount of host a."""
    lan["a"].check("sh", "-ec", script, "sh", f"/mnt/{site.kind}/{site.name}")


@pytest.fixture(
    params=[(kind, loss) for kind in KINDS for loss in LOSSES] if PROVE else drawn(CASES),
    ids="-".join,
)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A kind of mount, and a loss."""
    print(TOLD)
    return request.param


@pytest.fixture
def site(case: tuple[str, str], lan: Cluster, template: Template) -> Iterator[ClusterSite]:
    """A site with pinned copies of the VMs of host b, and with `web` of host a in the archive."""
    made = ClusterSite(lan, template, case[0])
    try:
        _by_a(lan, made, _KEEP)
        first = {vm: template.stamps[template.directories[vm]][0] for vm in ("mail", "web@b")}
        pins = [("b", "pin", vm, stamp) for vm, stamp in first.items()]
        for host, *command in (*pins, ("a", "archive", "web")):  # both have seen this database
            status, output = made.run(host, ADMIN, *command)
            assert status == 0, (command, output)
        yield made
    finally:
        made.remove()


def test_two_hosts_go_on_with_a_database_that_one_of_them_made_anew(
    lan: Cluster, template: Template, site: ClusterSite, case: tuple[str, str]
) -> None:
    lose, readable = LOSSES[case[1]]
    lose(lan, site)
    if readable:
        _refused_until_it_is_moved_away(lan, site)
    status, output = site.run("a", ADMIN, "statedb", "rebuild")
    assert status == 0, output
    assert ("what was in vmstate is set aside in" in output) == (case[1] == "cut"), output
    assert "statedb accept" in output
    status, output = _vmfind_that_sees_the_new_one(site)
    assert (status, "vmbackup-admin statedb accept" in output) == (1, True), output
    status, output = site.run("b", ADMIN, "statedb", "accept", "--yes")
    assert status == 0, output
    jobs = {host: site.spawn(host, WORKER, "run") for host in ("a", "b")}
    for host, (status, output) in together(jobs).items():
        assert status == 0, (host, output)
    states = {"web": "ARCHIVED", "mail": "CLEAN", "web@b": "CLEAN"}
    (truth,) = look(lan, {site: {"states": states}})
    assert truth.problems == []
    assert {key: vm["directory"] for key, vm in truth.vms.items()} == template.directories
    assert truth.stamps["web"] == template.stamps["web"]
    for key in ("mail", "web@b"):
        directory = template.directories[key]
        before, after = template.stamps[directory], truth.stamps[directory]
        assert set(before) < set(after), "the older one is pinned"
        assert truth.vms[key]["claim"] is None


def _refused_until_it_is_moved_away(lan: Cluster, site: ClusterSite) -> None:
    """One that can be read is never set aside by the program itself, also if it is not ours."""
    for host in ("a", "b"):
        status, output = site.run(host, WORKER, "vmfind")
        assert status != 0, (host, output)
    status, output = site.run("a", ADMIN, "statedb", "rebuild")
    assert (status, "away first" in output) == (11, True), output
    _by_a(lan, site, _MOVE_AWAY)


def _vmfind_that_sees_the_new_one(site: ClusterSite) -> tuple[int, str]:
    """The other host's look at the database, once its mount shows that another one is there.

    An NFS client may believe for a minute in what was there before. The host does nothing then.
    """
    end = time.monotonic() + 120
    while True:
        status, output = site.run("b", WORKER, "vmfind")
        if "was made anew from the copies" in output or time.monotonic() > end:
            return status, output
        assert status != 0, output
        time.sleep(2)
