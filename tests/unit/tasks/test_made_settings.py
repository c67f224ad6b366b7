"""The settings of a new VM have what was kept, new UUIDs, its own disks, and nothing else."""

import pytest

from shared.ova.ovf import Attachment
from shared.tasks.made_settings import (
    NewDisk,
    UnknownSettingsError,
    attachments,
    made_settings,
)
from shared.virtualbox.settings_writing import parse_settings

KEPT = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.20-linux">
  <Machine uuid="{11111111-1111-1111-1111-111111111111}" name="web" OSType="Other"
   stateFile="/home/a/x.sav" currentSnapshot="{22222222-2222-2222-2222-222222222222}"
   snapshotFolder="/home/a" lastStateChange="2026-11-29T20:51:16Z">
    <Description>text</Description>
    <Teleporter enabled="true" port="1"/>
    <MediaRegistry><HardDisks>
      <HardDisk uuid="{33333333-3333-3333-3333-333333333333}" location="/etc/shadow" format="VMDK"
       type="Immutable"/>
    </HardDisks></MediaRegistry>
    <Hardware>
      <Memory RAMSize="16"/>
      <Firmware><NVRAM path="/etc/passwd"/></Firmware>
      <Network><Adapter slot="0" enabled="true" MACAddress="0800279E319E"/></Network>
      <StorageControllers>
        <StorageController name="SATA" type="AHCI" PortCount="4">
          <AttachedDevice type="HardDisk" hotpluggable="false" port="1" device="0">
            <Image uuid="{33333333-3333-3333-3333-333333333333}"/>
          </AttachedDevice>
          <AttachedDevice type="DVD" port="2" device="0"><HostDrive src="/dev/sr0"/>
          </AttachedDevice>
          <AttachedDevice type="Strange" port="3" device="0"/>
        </StorageController>
      </StorageControllers>
    </Hardware>
    <Groups><Group name="/office"/></Groups>
    <Snapshot uuid="{22222222-2222-2222-2222-222222222222}" name="s"/>
  </Machine>
</VirtualBox>
"""
UUID = "99999999-9999-9999-9999-999999999999"
PLACE = Attachment("SATA", 1, 0)
DISK = NewDisk("88888888-8888-8888-8888-888888888888", "new-disk001.vdi")


def made(text: str = KEPT, *, keep_macs: bool = True, with_host_access: bool = False) -> str:
    data = made_settings(
        text.encode(),
        {PLACE: DISK},
        name="new",
        uuid=UUID,
        keep_macs=keep_macs,
        with_host_access=with_host_access,
    )
    parse_settings(data)
    return data.decode()


def test_it_is_another_vm_with_its_own_disks() -> None:
    text = made()
    for word in (f'uuid="{{{UUID}}}"', 'name="new"', 'RAMSize="16"', 'name="/office"'):
        assert word in text
    assert f'<HardDisk uuid="{{{DISK.uuid}}}" location="new-disk001.vdi"' in text
    assert text.count(DISK.uuid) == 2
    assert 'MACAddress="0800279E319E"' in text
    assert 'OSType="Other"' in text


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("<Groups>", '<Autostart enabled="true" delay="5" autostop="AcpiShutdown" />'),
        ("<Memory", '<Frontend><Default type="headless" /></Frontend>'),
    ],
)
def test_a_server_starts_with_its_host_as_after_an_import(before: str, line: str) -> None:
    assert line in made(KEPT.replace(before, f"{line}{before}"))
    assert 'processPriority="Low"' in made(
        KEPT.replace('OSType="Other"', 'OSType="Other" processPriority="Low"')
    )


@pytest.mark.parametrize("access", [False, True])
def test_nothing_of_the_old_host_comes_along(*, access: bool) -> None:
    text = made(with_host_access=access)
    for word in ("1111-1111", "2222-2222", "3333-3333", "shadow", "passwd", ".sav", "Strange"):
        assert word not in text
    for word in ("Teleporter", "snapshotFolder", "/dev/sr0"):
        assert (word in text) is access


def test_new_addresses() -> None:
    text = made(keep_macs=False)
    assert 'MACAddress="080027' in text
    assert "9E319E" not in text


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("<Groups>", "<Strange/><Groups>", "Strange"),
        ("<Memory", "<Laser/><Memory", "Laser"),
        # VirtualBox reads these words, too, and what is taken away goes by those that it writes
        ("<Memory", '<Uart><Port slot="0" hostMode="RawFile" path="/x"/></Uart><Memory', "Uart"),
        ("<Memory", '<Lpt><Port slot="0" path="/dev/lp0"/></Lpt><Memory', "Lpt"),
        ("<Memory", '<RemoteDisplay enabled="1"/><Memory', "know: 1"),
        ("<Memory", '<RemoteDisplay enabled="yes"/><Memory', "know: yes"),
        ('MACAddress="0800279E319E"/>', '><VDE network="/x"/></Adapter>', "VDE"),
        ("1.20-linux", "1.15-linux", "old version"),
        ('OSType="Other"', 'OSType="Other" keyId="x"', "keyId"),
        ('port="1"', 'port="5"', "other disks"),
        ('port="1"', 'port="-1"', "nowhere"),
        ("Machine", "MachineEncrypted", "no machine"),
        ("</Machine>", "</Machine><Machine/>", "single"),
        ("</VirtualBox>", "", "cannot be used"),
    ],
)
def test_what_is_not_known_is_left_to_virtualbox(old: str, new: str, why: str) -> None:
    with pytest.raises(UnknownSettingsError, match=why):
        made(KEPT.replace(old, new))


def test_no_card_reaches_the_loopback_of_the_host_because_nothing_is_said() -> None:
    assert '<DisabledModes><NAT localhost-reachable="false" /></DisabledModes>' in made()


def test_where_disks_were() -> None:
    assert attachments(KEPT.encode()) == {PLACE}
