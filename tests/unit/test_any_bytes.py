"""Whatever somebody wrote into the files and answers that the program reads.

An error of ours or a right answer, soon.
"""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some

from shared.copies import sidecar
from shared.host.configuration import Nas, load
from shared.host.errors import (
    ConfigurationError,
    DatabaseDamagedError,
    DatabaseVersionError,
    VmBackupError,
)
from shared.nas.repository import check_repository
from shared.ova.ovf import disk_files, rename_files
from shared.state.sessions.heartbeat import parse_beat
from shared.state.store import readable_view, version
from shared.state.store.lease import Marker, is_provably_dead, parse_marker
from shared.state.store.seen_history import SeenHistory
from shared.state.store.snapshot import decode
from shared.virtualbox.export_errors import export_problem
from shared.virtualbox.settings import SettingsError, parse_machine, parse_registry
from shared.virtualbox.vboxmanage_output import complaint, error_lines, parse_info, parse_list

UUID = "6df1f3c0-7f0a-4e5c-a3c8-0123456789ab"
OTHER = "11111111-2222-4333-8444-555555555555"
REPOSITORY = "0f0e0d0c-0b0a-4908-8706-050403020100"

VBOX = f"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
<Machine uuid="{{{UUID}}}" name="web01" snapshotFolder="Snapshots"
lastStateChange="2026-11-22T18:18:34Z">
<MediaRegistry><HardDisks><HardDisk uuid="{{{OTHER}}}" location="a.vdi"
format="VDI" type="Normal"/></HardDisks></MediaRegistry>
<Hardware><StorageControllers><StorageController name="SATA" type="AHCI">
<AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{{{OTHER}}}"/></AttachedDevice>
</StorageController></StorageControllers></Hardware></Machine></VirtualBox>
""".encode()
REGISTRY = f"""<?xml version="1.0"?>
<VirtualBox><Global><MachineRegistry><MachineEntry uuid="{{{UUID}}}"
src="/vms/web01.vbox"/></MachineRegistry>
<MediaRegistry><HardDisks/></MediaRegistry></Global></VirtualBox>
""".encode()
INFO = f"""name="web01"
UUID="{UUID}"
CfgFile="/vms/web01.vbox"
VMState="poweroff"
VMStateChangeTime="2026-11-22T18:24:12.018000000"
"SATA-0-0"="/vms/a.vdi"
"SATA-ImageUUID-0-0"="{OTHER}"
"""
VERSION = version.DatabaseVersion("0.1", REPOSITORY, 60, "link").render()
MARKER = b"filelock/2\npid=4711\nhost=alpha\nmode=lease\ntoken=x\nduration=60\n"


@some.composite
def damaged(draw: some.DrawFn, whole: bytes) -> bytes:
    """A file in which pieces are cut out, doubled, or replaced by noise."""
    data = bytearray(whole)
    for _ in range(draw(some.integers(1, 4))):
        start = draw(some.integers(0, len(data)))
        end = draw(some.integers(start, min(len(data), start + 60)))
        piece = draw(some.sampled_from([b"", bytes(data[start:end]) * 2, None]))
        data[start:end] = draw(some.binary(max_size=20)) if piece is None else piece
    return bytes(data)


def near(whole: bytes) -> some.SearchStrategy[bytes]:
    return damaged(whole) | some.binary(max_size=400)


@given(near(VBOX))
def test_settings_of_a_machine(data: bytes) -> None:
    try:
        found = parse_machine(data)
    except SettingsError:
        return
    assert found.uuid
    assert len(found.digest) == 64


@given(near(REGISTRY))
def test_the_registry(data: bytes) -> None:
    try:
        found = parse_registry(data)
    except SettingsError:
        return
    assert all(uuid for uuid in found.machines)


@given(near(INFO.encode()))
def test_what_is_known_of_a_machine(data: bytes) -> None:
    try:
        found = parse_info(data.decode("utf-8", "backslashreplace"))
    except VmBackupError:
        return
    assert found.state
    assert len(found.uuid) == 36


@given(some.text(max_size=60), some.lists(some.text(max_size=30), max_size=3))
def test_a_name_and_snapshots_cannot_forge_what_is_known_of_a_machine(
    name: str, snapshots: list[str]
) -> None:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    told = INFO.replace('name="web01"', f'name="{escaped}"', 1) + "".join(
        f'SnapshotName="{each}"\n' for each in snapshots
    )
    found = parse_info(told)
    assert (found.name, found.uuid, found.state, found.settings_file) == (
        name,
        UUID,
        "poweroff",
        "/vms/web01.vbox",
    )


@given(some.lists(some.text(max_size=40), max_size=4))
@example(['x" {' + OTHER + '}\n"y'])
@example(["<inaccessible>", "", '"', "\n", "\r", "-dash", "../../etc"])
def test_every_machine_is_in_the_list_whatever_the_others_are_called(names: list[str]) -> None:
    uuids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(len(names))]
    listed = parse_list(
        "WARNING: noise\n"
        + "".join(f'"{name}" {{{uuid}}}\n' for name, uuid in zip(names, uuids, strict=True))
    )
    assert set(uuids) <= {each.uuid for each in listed}


@given(some.text(max_size=300), some.integers(-9, 255))
def test_what_vboxmanage_complains_of(stderr: str, status: int) -> None:
    from shared.host.processes import Completed

    completed = Completed(("VBoxManage", "export"), status, "", stderr)
    assert bool(complaint(completed)) == (status != 0 or bool(error_lines(stderr)))
    assert (export_problem(completed) is None) == (not complaint(completed))


@given(near(MARKER))
def test_the_lease_marker(data: bytes) -> None:
    found = parse_marker(data)
    assert found is None or isinstance(found, Marker)
    if found:
        is_provably_dead(found)


@given(near(json.dumps({"beat": "x", "pid": 1, "child": {"pid": 2, "started": 3.0}}).encode()))
@example(b"[" * 100_000)
@example(b'{"pid": ' + b"9" * 10_000 + b"}")
def test_a_heartbeat(data: bytes) -> None:
    assert isinstance(parse_beat(data), dict)


@given(near(VERSION))
def test_the_version_file(data: bytes) -> None:
    try:
        found = version.parse(data)
    except (DatabaseDamagedError, DatabaseVersionError):
        return
    assert found.lease_seconds > 0


@given(near(b"web01:CLEAN\nweb%3A02:RUNNING\n"))
def test_the_view(data: bytes) -> None:
    try:
        readable_view.parse(data)
    except DatabaseDamagedError:
        return


@given(some.binary(max_size=300))
@example(b"[" * 100_000)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_note_of_the_newest_generation(tmp_path: Path, data: bytes) -> None:
    note = tmp_path / "seen.json"
    note.write_bytes(data)
    found = SeenHistory(note)
    assert isinstance(found.generation, int)
    assert isinstance(found.checksum, str)


@given(near(json.dumps({"mountpoint": "/mnt", "repository": REPOSITORY}).encode()))
@example(b"[" * 100_000)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_note_of_the_repository(tmp_path: Path, data: bytes) -> None:
    nas = Nas(mountpoint=tmp_path)
    check_repository(nas, tmp_path / "notes", REPOSITORY)
    note = next((tmp_path / "notes").iterdir())
    note.write_bytes(data)
    try:
        check_repository(nas, tmp_path / "notes", REPOSITORY)
    except VmBackupError:
        note.unlink()


@given(
    near(
        b'[nas]\nmountpoint = "/mnt/nas"\nreserve = "1 GiB"\n[backup]\nwindow = '
        b'"22:00-06:00"\n[policy."a*"]\nkeep_last = 2\n'
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_configuration(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(data)
    try:
        found = load(str(path), {})
    except ConfigurationError:
        return
    assert found.nas.mountpoint.is_absolute()


OVF = (
    b'<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/2" '
    b'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/2" '
    b'xmlns:vbox="http://www.virtualbox.org/ovf/machine"><References><File ovf:id="f1" '
    b'ovf:href="a-disk001.vmdk"/></References>'
    b'<DiskSection><Disk ovf:capacity="100" ovf:fileRef="f1" '
    b'vbox:uuid="u1"/></DiskSection><vbox:Machine>'
    b'<StorageController name="SATA"><AttachedDevice type="HardDisk" port="0" device="0"><Image '
    b'uuid="{u1}"/></AttachedDevice>'
    b"</StorageController></vbox:Machine></Envelope>"
)


def test_the_description_that_is_damaged_below_is_whole() -> None:
    assert [disk.name for disk in disk_files(OVF)] == ["a-disk001.vmdk"]


@given(near(OVF))
def test_the_description_of_an_export(data: bytes) -> None:
    for read in (disk_files, lambda text: rename_files(text, "web01")):
        try:
            read(data)
        except VmBackupError:
            continue


@contextmanager
def bounded(seconds: float, mebibytes: float) -> Iterator[None]:
    """What is inside may take no longer, on the processor, and no more memory."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < seconds
    assert peak < mebibytes, peak


_DEEP = b"<a>" * 200_000
_HUGE = 'x" {' * 300_000
BOMBS: dict[str, SimpleNamespace] = {
    "entities": SimpleNamespace(
        read=parse_machine,
        data=b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        + VBOX[21:].replace(b"web01", b"&b;"),
    ),
    "deep elements": SimpleNamespace(read=parse_registry, data=_DEEP),
    "deep disks": SimpleNamespace(
        read=parse_machine,
        data=VBOX.replace(b"<HardDisks>", b"<HardDisks>" + b'<HardDisk uuid="{a}">' * 50_000),
    ),
    "a list without an end": SimpleNamespace(read=parse_list, data=_HUGE),
    "a name without an end": SimpleNamespace(read=parse_info, data='name="' + "\\" * 1_000_001),
    "many keys": SimpleNamespace(read=parse_info, data=INFO + '"SATA-0-0"="x"\n' * 50_000),
    "a view of many lines": SimpleNamespace(read=readable_view.parse, data=b"%zz:CLEAN\n" * 50_000),
    "deep json": SimpleNamespace(read=lambda data: decode(data, 1), data=b"[" * 500_000),
    "a marker without an end": SimpleNamespace(
        read=parse_marker, data=b"filelock/2\npid=" + b"1" * 1_000_000
    ),
    "a sidecar of one number": SimpleNamespace(
        read=sidecar.parse, data=b'{"schema": ' + b"1" * 100_000 + b"}"
    ),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.slow
def test_what_is_made_to_take_long_does_not(name: str) -> None:
    read: Callable[[object], object] = BOMBS[name].read
    with bounded(10, 200):
        try:
            read(BOMBS[name].data)
        except (VmBackupError, SettingsError):
            return
