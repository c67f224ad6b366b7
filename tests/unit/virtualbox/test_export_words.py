"""How a VM is exported so that VirtualBox imports its copy."""

from dataclasses import replace

import pytest

from shared.virtualbox.export_words import LONGEST_DESCRIPTION, exported_as
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import parse_machine
from tests.unit.virtualbox.fakes import A, machine


def described(text: str) -> Machine:
    settings = parse_machine(machine(A, "web").encode())
    return Machine(A, "web", "/web.vbox", settings=replace(settings, description=text))


@pytest.mark.parametrize("text", ["", "short", "é" * 4096])
def test_a_vm_is_exported_as_it_is(text: str) -> None:
    assert exported_as(described(text), None).words() == ()
    assert exported_as(described(text), "web").words() == ("--vsys", "0", "--vmname=web")


@pytest.mark.parametrize("text", ["x" * 8193, "é" * 4097, "\U0001f600" * 5000, "a" + "é" * 9000])
def test_a_description_that_is_too_long_is_cut_between_characters(text: str) -> None:
    words = exported_as(described(text), "web").words()
    assert words[:3] == ("--vsys", "0", "--vmname=web")
    cut = words[3].removeprefix("--description=")
    kept, _, note = cut.partition("\n[...]")
    assert len(cut.encode()) <= LONGEST_DESCRIPTION < len(cut.encode()) + 10
    assert text.startswith(kept)
    assert ".vbox" in note
