"""What may stay of a VM that is started on trial: only what is named."""

import re
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest

from shared.virtualbox.settings import SettingsError, parse_machine
from shared.virtualbox.trial_settings import trial_settings

FOLDER = Path("/vms/trial")
DISK = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
#: A VM that does all that a VM can do to its host. Each piece has a word of its own.
HOSTILE = {
    "Machine": """
      <Description>word-description</Description>
      <Teleporter enabled="true" port="6000" address="0.0.0.0" password="word-teleporter"/>
      <FaultTolerance state="master" address="word-fault-tolerance" port="1"/>
      <ExtraData><ExtraDataItem name="VBoxInternal/word-extra" value="1"/></ExtraData>
      <Debugging><Tracing enabled="true" config="word-tracing"/>
        <GuestDebug provider="GDB" io="TCP" address="word-debug" port="5037"/></Debugging>
      <Autostart enabled="true" delay="5" autostop="word-autostart"/>
      <Recording enabled="true"><Screen id="0" enabled="true" file="/word-recording"/></Recording>
      <VideoCapture enabled="true" file="/word-capture"/>
      <Groups><Group name="/word-group"/></Groups>
      <Snapshot uuid="{33333333-3333-4333-8333-333333333333}" name="word-snapshot"/>
      <Unheard enabled="true"><Of file="/word-unheard"/></Unheard>""",
    "Hardware": """
      <SharedFolders><SharedFolder name="etc" hostPath="/word-shared"/></SharedFolders>
      <RemoteDisplay enabled="true"><VRDEProperties><Property name="TCP/Ports" value="word-vrde"/>
        </VRDEProperties></RemoteDisplay>
      <USB><Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters><DeviceFilter name="word-usb" active="true"/></DeviceFilters></USB>
      <LPT><Port slot="0" enabled="true" path="/word-parallel"/></LPT>
      <UART><Port slot="0" enabled="true" IOAddress="0x3f8" IRQ="4" server="true"
        path="/word-serial" hostMode="HostPipe"/></UART>
      <AudioAdapter driver="word-audio" enabled="true"/>
      <Clipboard mode="word-clipboard"/><DragAndDrop mode="word-drag"/>
      <EmulatedUSB><CardReader enabled="word-card"/></EmulatedUSB>
      <HostPci><Devices><Device name="word-pci"/></Devices></HostPci>
      <Frontend><Default type="word-frontend"/></Frontend>
      <Paravirt provider="KVM" debug="word-paravirt"/>
      <TrustedPlatformModule type="Swtpm" location="word-tpm:1"/>
      <Firmware type="EFI"><NVRAM path="/word-nvram"/><IOAPIC enabled="true"/></Firmware>
      <Network><Adapter slot="0" enabled="true" MACAddress="080027000001" type="virtio"
        trace="true" tracefile="/word-trace" bandwidthGroup="word-bandwidth">
        <DisabledModes><BridgedInterface name="word-disabled"/></DisabledModes>
        <NAT localhost-reachable="true"><Forwarding name="word-forwarding" hostport="22"/></NAT>
        </Adapter></Network>""",
    "Media": f"""
      <HardDisk uuid="{{{OTHER}}}" location="../word-disk.vdi" format="VDI" type="Normal"/>
      <HardDisk uuid="{{{OTHER}}}" location="/word-absolute.vdi" format="VDI" type="Normal"/>
      <HardDisk uuid="{{{OTHER}}}" location="" format="word-iscsi" type="Normal"/>""",
    "Devices": f"""
      <AttachedDevice type="HardDisk" port="1" device="0"><Image uuid="{{{OTHER}}}"/>
        </AttachedDevice>
      <AttachedDevice passthrough="true" type="DVD" port="2" device="0">
        <HostDrive src="/word-drive"/></AttachedDevice>
      <AttachedDevice type="Floppy" port="3" device="0"><Image uuid="{{{OTHER}}}"/>
        </AttachedDevice>""",
}


def settings(*kinds: str) -> bytes:
    """A VM with what is hostile of these kinds."""
    hostile = {kind: HOSTILE[kind] if kind in kinds else "" for kind in HOSTILE}
    return f"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.20-linux">
  <Machine uuid="{{{DISK}}}" name="trial" OSType="Linux_64" snapshotFolder="/word-snapshots"
    stateFile="/word-state" processPriority="word-priority" executionEngine="Interpreter">
    <MediaRegistry><HardDisks>
      <HardDisk uuid="{{{DISK}}}" location="x-disk001.vdi" format="vdi" type="Normal"/>
      {hostile["Media"]}
    </HardDisks><DVDImages><Image uuid="{{{OTHER}}}" location="/word-iso"/></DVDImages>
    </MediaRegistry>
    {hostile["Machine"]}
    <Hardware><Memory RAMSize="64"/>{hostile["Hardware"]}
      <GuestProperties><GuestProperty name="/VirtualBox/GuestAdd/Version" value="7"
        timestamp="1" flags=""/></GuestProperties>
      <StorageControllers>
        <StorageController name="SATA" type="AHCI" PortCount="4" Bootable="true">
          <AttachedDevice type="HardDisk" hotpluggable="false" port="0" device="0">
            <Image uuid="{{{DISK}}}"/></AttachedDevice>
          {hostile["Devices"]}
        </StorageController></StorageControllers></Hardware>
    <Platform architecture="x86"><CPU count="2"/><x86><CPU><PAE enabled="false"/></CPU></x86>
    </Platform>
  </Machine>
</VirtualBox>""".encode()


def kept(*kinds: str) -> tuple[Element, str]:
    tree = fromstring(trial_settings(settings(*kinds), FOLDER))
    return tree, tostring(tree, encoding="unicode")


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_not_named_does_not_stay(kind: str) -> None:
    assert "word-" in settings(kind).decode()
    _, text = kept(kind)
    assert re.findall(r"word-[a-z]+", text) == []


def test_what_a_guest_needs_stays() -> None:
    data = trial_settings(settings(*HOSTILE), FOLDER)
    machine = parse_machine(data)
    assert (machine.name, machine.uuid, machine.memory) == ("trial", DISK, 64 << 20)
    assert [(disk.image, disk.controller, disk.port) for disk in machine.disks] == [
        (DISK, "SATA", 0)
    ]
    assert list(machine.images) == [DISK]
    text = data.decode()
    for piece in (
        'executionEngine="Interpreter"',
        '<CPU count="2"',
        '<PAE enabled="false"',
        'MACAddress="080027000001"',
        'type="virtio"',
        '<Firmware type="EFI"',
        "/VirtualBox/GuestAdd/Version",
        'provider="KVM"',
        'name="xHCI"',
    ):
        assert piece in text, piece


def test_cards_and_lines_are_there_for_the_guest_and_lead_nowhere() -> None:
    tree, _ = kept(*HOSTILE)
    adapter = next(element for element in tree.iter() if element.tag.endswith("}Adapter"))
    assert (adapter.get("cable"), list(adapter)) == ("false", [])
    port = next(element for element in tree.iter() if element.tag.endswith("}Port"))
    assert (port.get("hostMode"), port.get("path"), port.get("IRQ")) == ("Disconnected", None, "4")
    display = [element for element in tree.iter() if element.tag.endswith("}RemoteDisplay")]
    assert [(element.get("enabled"), list(element)) for element in display] == [("false", [])]


def test_drives_for_other_media_are_there_and_empty() -> None:
    tree, _ = kept("Devices")
    devices = [element for element in tree.iter() if element.tag.endswith("}AttachedDevice")]
    assert [(device.get("type"), len(device)) for device in devices] == [
        ("HardDisk", 1),
        ("DVD", 0),
        ("Floppy", 0),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no XML",
        b"<VirtualBox/>",
        b'<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;&a;">]><VirtualBox><Machine/></VirtualBox>',
        b"<VirtualBox><MachineEncrypted/></VirtualBox>",
    ],
)
def test_what_is_no_settings_file_is_an_error(data: bytes) -> None:
    with pytest.raises(SettingsError):
        trial_settings(data, FOLDER)


def test_the_settings_that_stay_are_written_the_same_way_again() -> None:
    once = trial_settings(settings(*HOSTILE), FOLDER)
    assert trial_settings(once, FOLDER).count(b"RemoteDisplay") == once.count(b"RemoteDisplay")
