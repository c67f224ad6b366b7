"""Restores from real NFS and SMB mounts, without an import; on NFS the NAS is cut off meanwhile."""

import hashlib
import json
import time
from collections.abc import Iterator

import pytest

from deploy.testbed.nas.cluster import Cluster
from tests.support.cluster_site import ClusterSite, Template
from tests.support.simulated import disks

pytestmark = [pytest.mark.nas("cluster"), pytest.mark.timeout(600)]

ADMIN = "vmbackup-admin"


@pytest.fixture
def site(lan: Cluster, template: Template) -> Iterator[ClusterSite]:
    """A site with two copies of `mail`, whose disk is on host b."""
    made = ClusterSite(lan, template, "nfs")
    try:
        yield made
    finally:
        made.remove()


def digest_of_mail(template: Template) -> str:
    """The SHA-256 of the disk as its guest sees it, by the simulated host."""
    (image,) = (template.folder / "hosts" / "b" / "vms").glob("*.vdi")
    chain = [disks.opened(str(image))]
    whole = b"".join(disks.read_block(chain, block) for block in range(chain[0].mib))
    return hashlib.sha256(whole).hexdigest()


def test_a_vm_and_a_disk_come_back_also_when_the_nas_is_cut_off_meanwhile(
    lan: Cluster, template: Template, site: ClusterSite
) -> None:
    back, image = f"{site.place}/back", f"{site.place}/disk.img"
    status, output = site.run("a", ADMIN, "restore", "mail", "--to", back, "--json")
    assert status == 0, output
    assert json.loads(output[output.index("{") :])["imported_because"] == ""
    restore = (ADMIN, "restore", "mail", "--disk", "1", "--to", image)
    where = ("open", "disk.img", "vdi_writing")
    job = site.spawn_halted("a", "after", where, *restore, below=site.place)
    lan["a"].cut()
    site.let_go("a")
    time.sleep(5)
    lan["a"].heal()
    with job:
        status = job.wait(150)
    assert status == 0, job.output
    found = lan["a"].check("sha256sum", image).split()[0]
    assert found == digest_of_mail(template)


@pytest.mark.parametrize("kind", ["nfs3", "smb"])
def test_a_disk_comes_back_from_each_kind_of_mount(
    lan: Cluster, template: Template, kind: str
) -> None:
    site = ClusterSite(lan, template, kind)
    try:
        image = f"{site.place}/disk.img"
        status, output = site.run("a", ADMIN, "restore", "mail", "--disk", "1", "--to", image)
        assert status == 0, output
        assert lan["a"].check("sha256sum", image).split()[0] == digest_of_mail(template)
    finally:
        site.remove()
