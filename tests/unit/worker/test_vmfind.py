"""vmfind: what a tick over very many VMs looks at. Operations are counted, not seconds."""

from collections.abc import ValuesView
from typing import Any
from uuid import UUID

import pytest

from shared.copies import names
from shared.host.configuration import Configuration
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules.sightings import sight
from shared.virtualbox.inventory import Machine
from tests.unit.state.builders import WHEN, contents, vm
from worker.vmfind import sightings

MANY = 2000
CONFIGURATION = Configuration.model_validate(
    {"nas": {"mountpoint": "/nas"}, "host": {}, "virtualbox": {}, "backup": {}, "policy": {}}
)


class Counting(dict[str, VmRecord]):
    """The VMs of a database, which count how many of them were looked at."""

    looked = 0

    def values(self) -> ValuesView[VmRecord]:
        self.looked += len(self)
        return super().values()


def machines() -> list[Machine]:
    return [Machine(str(UUID(int=number)), f"vm{number}", "") for number in range(MANY)]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were made comparable: the dear part of choosing a directory."""
    made: list[str] = []
    original = names.folded

    def key(name: str) -> str:
        made.append(name)
        return original(name)

    monkeypatch.setattr(names, "folded", key)
    return made


def unexpected(name: str, uuid: str) -> str:
    raise AssertionError(f"{name} is known: no place is looked for")


def known(**changes: Any) -> tuple[Contents, Counting]:
    before = contents(
        *(
            vm(str(machine.name), uuid=machine.uuid, directory=str(machine.name), **changes)
            for machine in machines()
        )
    )
    counting = Counting(before.vms)
    return Contents(0, {}, {}, counting), counting


@pytest.mark.broad
def test_two_thousand_known_vms_are_looked_at_a_few_times_each(keys: list[str]) -> None:
    before, counting = known()
    listed = sightings(before, machines(), unexpected, CONFIGURATION)
    assert sight(before, "alpha", listed, WHEN) == before
    assert counting.looked <= 10 * MANY
    assert len(keys) <= 2 * MANY


@pytest.mark.broad
def test_two_thousand_new_vms_of_one_host_each_get_a_directory_by_a_few_looks(
    keys: list[str],
) -> None:
    after = sight(
        contents(),
        "alpha",
        sightings(contents(), machines(), names.DirectoryNames(()).choose, CONFIGURATION),
        WHEN,
    )
    assert len({record.directory for record in after.vms.values()}) == MANY
    assert len(keys) <= 4 * MANY


def test_a_vm_whose_settings_cannot_be_read_keeps_the_name_and_place_that_it_had() -> None:
    before = contents(vm("web01", uuid=str(UUID(int=1)), directory="place"))
    (sighting,) = sightings(
        before, [Machine(str(UUID(int=1)), None, "")], unexpected, CONFIGURATION
    )
    assert (sighting.name, sighting.directory) == ("web01", "place")
    (new,) = sightings(
        before,
        [Machine(str(UUID(int=2)), None, "")],
        names.DirectoryNames(()).choose,
        CONFIGURATION,
    )
    assert new.name == str(UUID(int=2))
