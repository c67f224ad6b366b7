"""What a machine is known by, where the system knows it and where it does not."""

import os
import stat
import threading
from pathlib import Path

import pytest

from coordinator.doctor import host
from coordinator.doctor.result import Check
from shared.host import host_identity
from shared.host.configuration import Configuration
from shared.host.errors import ConfigurationError, NodeConflictError
from shared.host.host_identity import HostIdentity, own_machine_id, system_machine_id
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord
from shared.state.rules import hosts


def silent(_: object) -> str:
    return ""


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose system has no machine id."""
    monkeypatch.setattr(host_identity, "system_machine_id", lambda _: "")


def test_the_system_knows_its_machine(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("uninitialized\n")
    second.write_text("0123456789abcdef\n")
    assert system_machine_id(silent, (first, second), "linux") == "0123456789abcdef"
    assert system_machine_id(silent, (first,), "linux") == ""
    assert system_machine_id(lambda _: '  "IOPlatformUUID" = "A-1"\n', (), "darwin") == "A-1"


@pytest.mark.usefixtures("container")
def test_two_containers_of_one_name_are_two_machines(tmp_path: Path) -> None:
    one, two = (HostIdentity.of_this_machine("web", tmp_path / name) for name in ("one", "two"))
    assert one.machine
    assert one.machine != two.machine
    assert HostIdentity.of_this_machine("web", tmp_path / "one") == one, "it is made once"
    joined = hosts.join(Contents(), "web", one.machine, "web")
    with pytest.raises(NodeConflictError):
        hosts.join(joined, "web", two.machine, "web")


def test_a_host_that_was_known_without_a_machine_is_known_by_it_from_now_on() -> None:
    older = Contents(nodes={"web": NodeRecord("web", "", "web")})
    assert hosts.join(older, "web", "", "web") == older
    assert hosts.join(older, "web", "a", "web").nodes["web"].machine == "a"


@pytest.mark.usefixtures("container")
def test_whoever_only_reads_makes_nothing(tmp_path: Path) -> None:
    assert HostIdentity.of_this_machine("web", tmp_path, make=False).machine == ""
    assert list(tmp_path.iterdir()) == []


def test_all_that_make_one_at_once_get_the_same(tmp_path: Path) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.append(own_machine_id(tmp_path / "new", make=True)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["machine-id"]
    assert stat.S_IMODE((tmp_path / "new" / "machine-id").stat().st_mode) == 0o644


def test_a_file_that_holds_no_id_is_said_and_left(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("")
    with pytest.raises(ConfigurationError, match="holds no machine id"):
        own_machine_id(tmp_path, make=True)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="none can be kept"):
        own_machine_id(tmp_path / "file" / "below", make=True)
    assert own_machine_id(tmp_path / "file" / "below", make=False) == ""


@pytest.mark.timeout(20)
def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "machine-id")
    with pytest.raises(ConfigurationError, match="no ordinary file"):
        own_machine_id(tmp_path, make=True)
    assert own_machine_id(tmp_path, make=False) == ""


@pytest.mark.usefixtures("container")
def test_doctor_says_what_such_a_machine_is_known_by(tmp_path: Path) -> None:
    said = {"nas": {"mountpoint": "/nas"}, "host": {"state_directory": str(tmp_path)}}
    configuration = Configuration.model_validate(
        {**said, "virtualbox": {}, "backup": {}, "policy": {}}
    )

    def examined() -> Check:
        (found,) = (check for check in host.examine(configuration, None) if check.name == "machine")
        return found

    check = examined()
    assert "the first worker makes one" in check.seen
    host_identity.own_machine_id(tmp_path, make=True)
    check = examined()
    assert f"it is known by {tmp_path / 'machine-id'}" in check.seen
