"""What makes one VM another kind than the next, as its settings file says it."""

from shared.virtualbox.settings import parse_machine
from tests.support.hosts import VirtualBoxHost, VirtualMachine


def test_groups_and_extra_data_are_in_the_settings_file(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    before = parse_machine(vm.settings.read_bytes())
    assert (before.groups, before.wish) == ((), "")
    host.run("setextradata", vm.uuid, "vmbackup/backup", "never")
    host.run("modifyvm", vm.uuid, "--groups=/office,/lab/second floor")
    after = parse_machine(vm.settings.read_bytes())
    assert (sorted(after.groups), after.wish) == (["/lab/second floor", "/office"], "never")
