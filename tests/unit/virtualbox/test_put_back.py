"""What comes back of a restored VM by its kept settings, and what only with the operator's word."""

from pathlib import Path

import pytest

from shared.host.xml import Element, parse_xml
from shared.virtualbox.drives import Drive, DriveSlot
from shared.virtualbox.host_access import host_access
from shared.virtualbox.put_back import PutBack, kept_host_access, put_back
from tests.unit.virtualbox.test_trial_settings import DISK, HOSTILE, OTHER, settings

FOLDER = Path("/vms/web01")
#: What of a VM reaches into its host, and the words by which it is told.
ACCESS = {
    "shared folder 'etc' (/word-shared)",
    "serial line 1 (HostPipe /word-serial)",
    "parallel port 1 (/word-parallel)",
    "packet capture of network card 1 (/word-trace)",
    "forwarded port 'word-forwarding' of network card 1 (:22)",
    "remote display",
    "TPM of the host (Swtpm word-tpm:1)",
    "PCI devices of the host",
    "debugging of the guest (word-paravirt)",
    "drive of the host (/word-drive)",
    f"floppy image ({{{OTHER}}})",
    "teleporter",
    "fault tolerance",
    "recording of the screen",
    "debugger of the guest (word-debug:5037)",
    "tracing",
    "snapshots in /word-snapshots",
    "extra data 'VBoxInternal/word-extra'",
}
IMPORTED = settings()
KEPT = settings(*HOSTILE)


def done(kept: bytes | None, imported: bytes = IMPORTED, *, wanted: bool = False) -> PutBack:
    return put_back(imported, kept, FOLDER, name="web01", with_host_access=wanted)


def machine(data: bytes) -> Element:
    found = parse_xml(data, limit=1 << 20).find("Machine")
    assert found is not None
    return found


def test_all_that_reaches_into_the_host_is_listed() -> None:
    assert set(kept_host_access(KEPT)) == ACCESS
    assert set(done(KEPT).host_access) == ACCESS


@pytest.mark.parametrize("kept", [None, KEPT])
def test_without_the_operators_word_nothing_of_it_is_there(kept: bytes | None) -> None:
    """Whether it is in what was imported or in what was kept."""
    for imported in (IMPORTED, KEPT):
        made = done(kept, imported)
        assert host_access(machine(made.settings), FOLDER) == []
    assert set(done(None, KEPT).host_access) == ACCESS


def test_with_it_the_import_stays_and_what_it_left_out_comes_back() -> None:
    imported = KEPT.replace(b'hostPath="/word-shared"', b'hostPath=""').replace(
        b"<SharedFolders>", b"<Gone>"
    )
    imported = imported.replace(b"</SharedFolders>", b"</Gone>").replace(
        b'path="/word-serial" hostMode="HostPipe"', b'hostMode="Disconnected"'
    )
    found = machine(done(KEPT, imported, wanted=True).settings)
    assert {each.text for each in host_access(found)} == ACCESS


def test_texts_come_back_as_they_were() -> None:
    long = "ä\r\n\t<&>\"'" * 3000
    escaped = long.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "&#13;")
    kept = settings().replace(
        b"<Hardware>",
        f"<Description>{escaped}</Description><ExtraData>"
        '<ExtraDataItem name="my/key" value="a&#10;b &quot;c&quot;"/>'
        '<ExtraDataItem name="VBoxInternal/x" value="1"/>'
        '<ExtraDataItem name="vboxINTERNAL2/x" value="1"/></ExtraData><Hardware>'.encode(),
    )
    found = machine(done(kept).settings)
    assert found.findtext("Description") == long
    items = [(item.get("name"), item.get("value")) for item in found.iter("ExtraDataItem")]
    assert items == [("my/key", 'a\nb "c"')]
    internal = [
        item.get("name") for item in machine(done(kept, wanted=True).settings).iter("ExtraDataItem")
    ]
    assert internal == ["my/key", "VBoxInternal/x", "vboxINTERNAL2/x"]
    assert found.get("name") == "web01"


@pytest.mark.parametrize(
    ("kept", "version", "reachable"),
    [
        (" ", "1.20", "false"),
        (" ", "1.19", "false"),
        (" ", "1.18", "true"),
        (" ", "odd", "true"),
        (' localhost-reachable="true"', "1.20", "true"),
        (' localhost-reachable="false"', "1.20", "false"),
    ],
)
def test_the_loopback_of_the_host_is_reached_only_if_it_was(
    kept: str, version: str, reachable: str
) -> None:
    """An import lets each guest do it."""
    imported = settings("Hardware")
    original = imported.replace(b' localhost-reachable="true"', kept.encode())
    original = original.replace(b'"1.20-linux"', f'"{version}-linux"'.encode())
    (nat,) = machine(done(original, imported).settings).iter("NAT")
    assert nat.get("localhost-reachable") == reachable


@pytest.mark.parametrize(
    ("kind", "by_attaching", "in_settings", "lost"),
    [
        ("Normal", [], "Normal", ()),
        ("Writethrough", [], "Writethrough", ()),
        ("Immutable", ["immutable"], "Normal", ()),
        ("MultiAttach", ["multiattach"], "Normal", ()),
        ("Shareable", [], "Normal", ("its disk at SATA 0 is an ordinary one, not shareable",)),
    ],
)
def test_kinds_of_disks(kind: str, by_attaching: list[str], in_settings: str, lost: object) -> None:
    old, child = OTHER, "44444444-4444-4444-8444-444444444444"
    kept = settings().replace(DISK.encode(), child.encode())
    plain = f'<HardDisk uuid="{{{child}}}" location="x-disk001.vdi" format="vdi" type="Normal"/>'
    base = f'<HardDisk uuid="{{{old}}}" location="x.vdi" format="VDI" type="{kind}">'
    difference = f'<HardDisk uuid="{{{child}}}" location="Snapshots/y.vdi" format="VDI"/>'
    kept = kept.replace(plain.encode(), f"{base}{difference}</HardDisk>".encode())
    made = done(kept)
    assert [(each.image, each.kind, each.slot) for each in made.kinds] == [
        (DISK, each, DriveSlot("SATA", "0", "0")) for each in by_attaching
    ]
    (disk,) = machine(made.settings).iter("HardDisk")
    assert (disk.get("type"), made.lost) == (in_settings, lost)


@pytest.mark.parametrize("reset", [True, False])
def test_whether_a_disk_is_emptied_at_each_start(reset: bool) -> None:
    child = "44444444-4444-4444-8444-444444444444"
    kept = settings().replace(DISK.encode(), child.encode())
    plain = f'<HardDisk uuid="{{{child}}}" location="x-disk001.vdi" format="vdi" type="Normal"/>'
    base = f'<HardDisk uuid="{{{OTHER}}}" location="x.vdi" format="VDI" type="Immutable">'
    flag = ' autoReset="true"' if reset else ""
    difference = f'<HardDisk uuid="{{{child}}}" location="Snapshots/y.vdi" format="VDI"{flag}/>'
    (made,) = done(kept.replace(plain.encode(), f"{base}{difference}</HardDisk>".encode())).kinds
    assert made.auto_reset == reset


def test_images_in_drives() -> None:
    kept = settings("Devices").replace(
        b'<HostDrive src="/word-drive"/>', f'<Image uuid="{{{OTHER}}}"/>'.encode()
    )
    cd = Drive(DriveSlot("SATA", "2", "0"), "dvddrive", "/word-iso")
    floppy = Drive(DriveSlot("SATA", "3", "0"), "fdd", "")
    assert done(kept).drives == (cd,)
    assert done(kept, wanted=True).drives == (cd, floppy)


def test_what_snapshots_had_is_not_put_back() -> None:
    kept = settings().replace(
        b"<Hardware>",
        b'<Snapshot uuid="{33333333-3333-4333-8333-333333333333}" name="s">'
        + settings("Hardware", "Devices")
        .partition(b"<Hardware>")[2]
        .join([b"<Hardware>", b""])
        .partition(b"</Hardware>")[0]
        + b"</Hardware></Snapshot><Hardware>",
        1,
    )
    made = done(kept, wanted=True)
    assert (made.drives, set(made.host_access)) == ((), {"snapshots in /word-snapshots"})


@pytest.mark.parametrize(
    "kept",
    [
        b"",
        b"no XML",
        b"<VirtualBox/>",
        b"\x00" * 100,
        (
            b'<!DOCTYPE x [<!ENTITY a "bbbbbbbb"><!ENTITY c "&a;&a;&a;&a;">]>'
            b"<VirtualBox><Machine><Description>&c;</Description></Machine></VirtualBox>"
        ),
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><VirtualBox><Machine/></VirtualBox>',
    ],
)
def test_kept_settings_that_cannot_be_read_are_lost_and_said_to_be(kept: bytes) -> None:
    made = done(kept)
    assert made.settings == done(None).settings
    assert made.lost[0].startswith("what only its settings file had, which cannot be used: it ")
    assert kept_host_access(kept) == ()


def test_odd_but_wellformed_settings_raise_nothing() -> None:
    for odd in (
        b"<VirtualBox><Machine/></VirtualBox>",
        (
            b"<VirtualBox><Machine><Hardware><UART><Port slot='x' hostMode='TCP'/></UART>"
            b"<Network><Adapter slot='99999999' trace='true'/></Network></Hardware></Machine>"
            b"</VirtualBox>"
        ),
        b"<VirtualBox><Machine><ExtraData><ExtraDataItem/></ExtraData></Machine></VirtualBox>",
    ):
        assert done(odd).settings
        assert done(odd, odd, wanted=True).settings
