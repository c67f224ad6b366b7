"""The settings of a clone have disks of its own, and nothing of what its original does."""

import pytest

from shared.virtualbox.cloned_settings import ClonedImage, cloned_settings
from shared.virtualbox.settings import SettingsError, parse_machine
from shared.virtualbox.settings_writing import parse_settings

UUID, CLONE, BASE, CHILD, SHARED, LOST = (
    f"{digit * 8}-0000-4000-8000-000000000000" for digit in "123456"
)
SETTINGS = f"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
  <Machine uuid="{{{UUID}}}" name="web01" OSType="Linux_64" stateFile="Snapshots/x.sav"
      currentSnapshot="{{{LOST}}}" snapshotFolder="/elsewhere" lastStateChange="2026-11-30T12:00:00Z">
    <MediaRegistry>
      <HardDisks>
        <HardDisk uuid="{{{BASE}}}" location="web01.vdi" format="VDI" type="Normal">
          <HardDisk uuid="{{{CHILD}}}" location="Snapshots/c.vdi" format="VDI"/>
          <HardDisk uuid="{{{LOST}}}" location="Snapshots/l.vdi" format="VDI"/>
        </HardDisk>
      </HardDisks>
      <DVDImages><Image uuid="{{{SHARED}}}" location="/iso/a.iso"/></DVDImages>
    </MediaRegistry>
    <Snapshot uuid="{{{LOST}}}" name="mine"><Hardware/></Snapshot>
    <Hardware>
      <Firmware type="EFI"><NVRAM path="odd.nvram"/></Firmware>
      <Network><Adapter slot="0" MACAddress="080027000001"/></Network>
      <StorageControllers>
        <StorageController name="SATA" type="AHCI">
          <AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{{{CHILD}}}"/></AttachedDevice>
          <AttachedDevice type="DVD" port="1" device="0"><Image uuid="{{{SHARED}}}"/></AttachedDevice>
          <AttachedDevice type="DVD" port="2" device="0"><HostDrive src="/dev/sr0"/></AttachedDevice>
        </StorageController>
      </StorageControllers>
    </Hardware>
    <Groups><Group name="/office"/></Groups>
    <ExtraData><ExtraDataItem name="a" value="b"/></ExtraData>
  </Machine>
</VirtualBox>
""".encode()  # noqa: E501 - as VirtualBox writes it
IMAGES = {
    BASE: ClonedImage("77777777-0000-4000-8000-000000000000", "/c/base.vdi"),
    CHILD: ClonedImage("88888888-0000-4000-8000-000000000000", "/c/child.vdi"),
}


def test_a_clone_has_clones_in_the_places_of_the_images() -> None:
    data = cloned_settings(SETTINGS, [[CHILD, BASE]], IMAGES, name="vmbackup-1", uuid=CLONE)
    made = parse_machine(data)
    assert (made.uuid, made.name, made.attached) == (CLONE, "vmbackup-1", (IMAGES[CHILD].uuid,))
    assert {image.uuid: (image.location, image.parent) for image in made.images.values()} == {
        IMAGES[BASE].uuid: ("/c/base.vdi", ""),
        IMAGES[CHILD].uuid: ("/c/child.vdi", IMAGES[BASE].uuid),
    }
    assert (made.state_file, made.snapshot, made.snapshots, made.snapshot_folder) == (
        "",
        "",
        (),
        "",
    )
    assert (made.groups, made.nvram, made.drives) == ((), "", ())
    tree = parse_settings(data)
    assert tree.find("Machine/Hardware").get("uuid") == f"{{{UUID}}}"  # type: ignore[union-attr]
    assert b"080027000001" in data
    assert b'name="a" value="b"' in data
    for gone in (LOST, SHARED, "/dev/sr0", "odd.nvram"):
        assert gone.encode() not in data


def test_two_disks_may_stand_on_one_image() -> None:
    other = ClonedImage("99999999-0000-4000-8000-000000000000", "/c/other.vdi")
    chains = [[CHILD, BASE], [LOST, BASE]]
    made = parse_machine(
        cloned_settings(SETTINGS, chains, {**IMAGES, LOST: other}, name="x", uuid=CLONE)
    )
    assert sorted(image.parent for image in made.images.values()) == [
        "",
        *[IMAGES[BASE].uuid] * 2,
    ]


def test_a_disk_that_was_attached_a_moment_ago_makes_no_clone() -> None:
    with pytest.raises(SettingsError, match="other disks"):
        cloned_settings(SETTINGS, [[BASE]], {BASE: IMAGES[BASE]}, name="x", uuid=CLONE)
