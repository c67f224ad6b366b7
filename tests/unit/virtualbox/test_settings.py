"""VirtualBox's settings files: whole, damaged, hostile, and just being replaced."""

import os
import pwd
import sys
from pathlib import Path

import pytest

from shared.virtualbox import settings
from shared.virtualbox.settings import (
    MAXIMUM_BYTES,
    SettingsError,
    parse_machine,
    parse_registry,
    read_file,
)
from tests.unit.virtualbox.fakes import CHILD, DISK, OTHER, A, B, image, machine

WHOLE = machine(
    A, "web01", attached=CHILD, images=image(DISK, "/d.vdi", image(CHILD, "Snapshots/c.vdi"))
)


def no_sleep(_seconds: float) -> None:
    raise AssertionError("slept")


def test_machine() -> None:
    found = parse_machine(WHOLE.encode())
    assert (found.uuid, found.name, found.last_state_change) == (A, "web01", "2026-11-22T20:54:47Z")
    assert (found.state_file, found.aborted, found.snapshot, found.nvram) == ("", False, "", "")
    assert found.attached == (CHILD,)
    assert {uuid: (entry.location, entry.parent) for uuid, entry in found.images.items()} == {
        DISK: ("/d.vdi", ""),
        CHILD: ("Snapshots/c.vdi", DISK),
    }


@pytest.mark.parametrize(
    "name",
    [
        'quo"te',
        "a<b>&c",
        "two\nlines",
        "<inaccessible>",
        "..",
        "-dash",
        " Büro ",
        'x" aborted="true',
    ],
)
def test_names_of_all_kinds(name: str) -> None:
    found = parse_machine(machine(A, name).encode())
    assert found.name == name
    assert not found.aborted


def test_states_and_snapshot() -> None:
    text = machine(
        A, "x", attributes=f' stateFile="Snapshots/x.sav" aborted="true" currentSnapshot="{{{B}}}"'
    )
    found = parse_machine(text.encode())
    assert (found.state_file, found.aborted, found.snapshot) == ("Snapshots/x.sav", True, B)


@pytest.mark.parametrize(
    ("memory", "found"),
    [
        ('<Memory RAMSize="16"/><Display VRAMSize="4"/>', 20 << 20),
        ('<Memory RAMSize="2048"/>', 2048 << 20),
        ('<Memory RAMSize="-5"/>', 0),
        ('<Memory RAMSize="99999999999999999999"/>', 0),
        ("<Memory/>", 0),
        ("", 0),
    ],
)
def test_memory_is_that_of_the_vm_and_its_screen(memory: str, found: int) -> None:
    snapshot = f'<Snapshot uuid="{{{B}}}"><Hardware><Memory RAMSize="4096"/></Hardware></Snapshot>'
    text = machine(A, "x", attributes=' snapshotFolder="/fast"').replace(
        '<Memory RAMSize="16"/>', memory
    )
    read = parse_machine(text.replace("<Hardware>", f"{snapshot}<Hardware>", 1).encode())
    assert (read.memory, read.snapshot_folder) == (found, "/fast")


def test_disks_of_snapshots_and_other_devices_are_not_attached() -> None:
    hardware = WHOLE[WHOLE.index("<Hardware>") : WHOLE.index("</Hardware>")].replace(CHILD, DISK)
    snapshot = f'<Snapshot uuid="{{{B}}}">{hardware}</Hardware></Snapshot>'
    dvd = (
        f'<AttachedDevice type="DVD" port="1"><Image '
        f'uuid="{{{OTHER}}}"/></AttachedDevice><AttachedDevice type="HardDisk" port="2"/>'
    )
    text = WHOLE.replace("<Hardware>", f"{snapshot}<Hardware>", 1).replace(
        "</StorageController>", f"{dvd}</StorageController>"
    )
    assert parse_machine(text.encode()).attached == (CHILD,)


def test_controllers_of_old_settings() -> None:
    start, end = (
        WHOLE.index("<StorageControllers>"),
        WHOLE.index("</StorageControllers>") + len("</StorageControllers>"),
    )
    moved = WHOLE[:start] + WHOLE[end:].replace("</Hardware>", f"</Hardware>{WHOLE[start:end]}")
    assert parse_machine(moved.encode()).attached == (CHILD,)


@pytest.mark.parametrize(
    "text",
    [
        machine(A, "web01", version="7.3.0"),
        machine(A, "web01").replace("2026-11-22T20:54:47Z", "2027-01-01T00:00:00Z"),
        machine(
            A,
            "web01",
            attributes=(
                f' stateFile="x.sav" aborted="true" currentSnapshot="{{{B}}}" '
                f'currentStateModified="false"'
            ),
        ),
    ],
)
def test_digest_does_not_cover_the_state_and_who_wrote_it(text: str) -> None:
    assert parse_machine(text.encode()).digest == parse_machine(machine(A, "web01").encode()).digest


@pytest.mark.parametrize(
    "text",
    [
        machine(A, "web02"),
        machine(A, "web01", attributes=' OSType2="x"'),
        machine(A, "web01").replace('RAMSize="16"', 'RAMSize="17"'),
        machine(A, "web01").replace(
            "<Hardware>", "<Description>aborted=&quot;true&quot;</Description><Hardware>"
        ),
        machine(A, "web01", images=image(DISK, "/d.vdi")),
    ],
)
def test_digest_covers_everything_else(text: str) -> None:
    assert parse_machine(text.encode()).digest != parse_machine(machine(A, "web01").encode()).digest


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (WHOLE[: len(WHOLE) // 2].encode(), "damaged"),
        (b"\x00" * 2000, "damaged"),
        (b"<VirtualBox/>", "no machine"),
        (b"<VirtualBox><MachineEncrypted uuid='x'/></VirtualBox>", "encrypted"),
        (WHOLE.replace(A, "").encode(), "no UUID"),
        (WHOLE.replace('<?xml version="1.0"?>', BOMB).encode(), "DOCTYPE"),
        (
            WHOLE.replace("<?xml", "<!DOCTYPE x SYSTEM 'file:///etc/passwd'><?xml")
            .replace('<?xml version="1.0"?>', "")
            .encode(),
            "DOCTYPE",
        ),
        (
            WHOLE.replace('version="1.0"', 'version="1.0" encoding="UTF-16"').encode("utf-16"),
            "UTF-8",
        ),
    ],
)
def test_unusable_settings_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        parse_machine(data)


def test_registry() -> None:
    entries = f'<MachineEntry uuid="{{{A.upper()}}}" src="/a.vbox"/><MachineEntry src="/b.vbox"/>'
    text = (
        f"<VirtualBox><Global><MachineRegistry>{entries}</MachineRegistry>"
        f"<MediaRegistry><HardDisks>{image(DISK, '/d.vdi')}</HardDisks></MediaRegistry>"
        "</Global></VirtualBox>"
    )
    registry = parse_registry(text.encode())
    assert registry.machines == {A: "/a.vbox"}
    assert registry.images[DISK].location == "/d.vdi"


def test_very_deep_chain() -> None:
    images = ""
    for number in range(3000):
        images = image(f"{number}", "x", images)
    found = parse_machine(machine(A, "x", images=images).encode()).images
    assert found["0"].parent == "1"


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not there"):
        read_file(str(tmp_path / "x.vbox"), no_sleep)


def test_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x.vbox"
    path.touch()
    os.truncate(path, MAXIMUM_BYTES + 1)
    with pytest.raises(SettingsError, match="larger"):
        read_file(str(path), no_sleep)


def test_file_that_is_just_being_replaced_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.vbox"
    (tmp_path / "x.vbox-prev").write_text("old")
    assert read_file(str(path), lambda _seconds: (path.write_text("new"), None)[1]) == b"new"


def test_waiting_for_a_replacement_ends(tmp_path: Path) -> None:
    (tmp_path / "x.vbox-prev").write_text("old")
    naps: list[float] = []
    with pytest.raises(SettingsError, match="is not there"):
        read_file(str(tmp_path / "x.vbox"), naps.append)
    assert 0 < sum(naps) < 2


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one place only")
def test_home_is_where_virtualbox_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    environment = {"HOME": str(tmp_path)}
    assert settings.home(Path(), environment) == tmp_path / ".config" / "VirtualBox"
    (tmp_path / ".VirtualBox").mkdir()
    assert settings.home(Path(), environment) == tmp_path / ".VirtualBox"
    environment["XDG_CONFIG_HOME"] = "/xdg"
    assert settings.home(Path(), environment) == Path("/xdg/VirtualBox")
    environment["VBOX_USER_HOME"] = "/explicit"
    assert settings.home(Path(), environment) == Path("/explicit")
    assert settings.home(Path("/configured"), environment) == Path("/configured")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one place only")
def test_home_of_root_does_not_follow_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_root = pwd.struct_passwd(("root", "x", 0, 0, "root", str(tmp_path / "root"), "/bin/sh"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: of_root)
    assert (
        settings.home(Path(), {"HOME": str(tmp_path / "alice")})
        == tmp_path / "root" / ".config" / "VirtualBox"
    )
