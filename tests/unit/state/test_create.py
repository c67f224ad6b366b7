"""Making a state database: what an interrupted `init` leaves is finished by the next one."""

from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.host.errors import NasError
from shared.host.host_identity import HostIdentity
from shared.state.store import create as module
from shared.state.store.create import create
from shared.state.store.opening import read_version

HERE = HostIdentity.of_this_machine("alpha")


@pytest.mark.parametrize("primitive", ["link", "directory"])
def test_the_version_file_has_its_name_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, primitive: str
) -> None:
    root = tmp_path / "vmstate"
    monkeypatch.setattr(module, "probe_primitive", lambda _root: primitive)

    def torn(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(5, "the NAS went away")

    with monkeypatch.context() as broken:
        broken.setattr(module, "write_new_file", torn)
        with pytest.raises(NasError):
            create(root, HERE, SystemClock(), 10)
    assert not (root / "vmtool-db-version").exists()
    database = create(root, HERE, SystemClock(), 10)
    assert read_version(root) == database.version
    assert database.version.primitive == primitive
    assert database.head().generation == 1


def test_the_version_file_of_another_host_that_was_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "vmstate"
    first = create(root, HERE, SystemClock(), 10)
    monkeypatch.setattr(
        module, "list_fresh", lambda _path: []
    )  # looked a moment before the other one was done
    second = create(root, HostIdentity.of_this_machine("beta"), SystemClock(), 20)
    assert second.version == first.version
