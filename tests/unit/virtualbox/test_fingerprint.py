"""Fingerprints: what changes them, what does not, and how a change is told."""

import json
import os
from dataclasses import fields
from pathlib import Path

import pytest

from shared.host.errors import VBoxManageError
from shared.virtualbox.fingerprint import Fingerprint, differences, fingerprint_of
from tests.unit.virtualbox.fakes import CHILD, DISK, A, B, Host, image, machine


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    for name in ("base.vdi", "child.vdi"):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, ns=(1, 1))
    host.add(A, "web01", attached=CHILD, images=image(DISK, "base.vdi", image(CHILD, "child.vdi")))
    return host


def look(host: Host) -> Fingerprint:
    return fingerprint_of(host.take()[A])


def rewrite(host: Host, **changes: str) -> None:
    arguments = {
        "attached": CHILD,
        "images": image(DISK, "base.vdi", image(CHILD, "child.vdi")),
        **changes,
    }
    Path(host.registered[A]).write_text(machine(A, arguments.pop("name", "web01"), **arguments))


def test_two_looks_are_equal(host: Host) -> None:
    before = look(host)
    rewrite(host, version="9.0")
    assert differences(before, look(host)) == ()


@pytest.mark.parametrize("name", ["base.vdi", "child.vdi"])
def test_every_image_of_the_chain_counts(host: Host, name: str) -> None:
    before = look(host)
    os.utime(host.folder / name, ns=(1, 2))
    assert differences(before, look(host)) == ("its disks were written",)
    os.utime(host.folder / name, ns=(1, 1))
    assert differences(before, look(host)) == ()
    os.truncate(host.folder / name, 99)
    os.utime(host.folder / name, ns=(1, 1))
    assert differences(before, look(host)) == ("its disks were written",)
    (host.folder / name).unlink()
    assert differences(before, look(host)) == ("its disks were written",)


def test_reading_a_disk_does_not_count(host: Host) -> None:
    before = look(host)
    os.utime(host.folder / "base.vdi", ns=(10**18, 1))
    assert differences(before, look(host)) == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "web02"}, ("its settings changed",)),
        ({"attributes": f' currentSnapshot="{{{B}}}"'}, ("its current snapshot changed",)),
        ({"attributes": ' stateFile="x.sav"'}, ("its power state changed (off -> saved)",)),
        ({"attributes": ' aborted="true"'}, ("its power state changed (off -> aborted)",)),
    ],
)
def test_settings_state_and_snapshot_are_told_apart(
    host: Host, changes: dict[str, str], told: tuple[str, ...]
) -> None:
    before = look(host)
    rewrite(host, **changes)
    assert differences(before, look(host)) == told


def test_start_and_stop_are_told_with_their_time(host: Host) -> None:
    before = look(host)
    path = Path(host.registered[A])
    path.write_text(path.read_text().replace("20:54:47Z", "21:00:00Z"))
    assert differences(before, look(host)) == (
        "it was started, stopped or restored (2026-11-22T20:54:47Z -> 2026-11-22T21:00:00Z)",
    )


def test_firmware_variables_count(host: Host) -> None:
    before = look(host)
    (host.folder / f"{A}.nvram").write_bytes(b"1")
    assert differences(before, look(host)) == ("its firmware variables changed",)


def test_json_keeps_it_and_is_small(host: Host) -> None:
    seen = look(host)
    document = json.loads(json.dumps(seen.to_json()))
    assert Fingerprint.from_json(document) == seen
    assert len(json.dumps(document)) < 250
    assert all(isinstance(value, str) for value in document.values())


def test_every_field_is_told_when_it_differs() -> None:
    for item in fields(Fingerprint):
        assert len(differences(Fingerprint(), Fingerprint(**{item.name: "x"}))) == 1


def test_fingerprint_of_another_version_or_none_equals_nothing(host: Host) -> None:
    seen = look(host)
    for stored in ({}, {**seen.to_json(), "version": "0", "later": "x"}):
        assert differences(Fingerprint.from_json(stored), seen) == (
            "it was last looked at by another version of vmbackup",
        )


def test_inaccessible_vm_has_none(host: Host) -> None:
    Path(host.registered[A]).unlink()
    with pytest.raises(VBoxManageError, match="is not there"):
        look(host)
