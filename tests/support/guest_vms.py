"""Small VMs with other guests than that of the test bed."""

from tests.support.virtualbox import RealHost, RealVm


def make_guest_vm(host: RealHost, name: str, disk: bytes, memory_mib: int) -> RealVm:
    """A VM, stopped, like those of `make_vm`, with this disk. Its guest prints a dot for a beat."""
    vm = host.make_vm(name)
    port = ("storageattach", vm.uuid, "--storagectl=SATA", "--port=0", "--type=hdd")
    host.run(*port, "--medium=none")
    host.run("closemedium", "disk", vm.disk, "--delete")
    raw = vm.disk.with_suffix(".raw")
    raw.write_bytes(disk)
    host.run("convertfromraw", raw, vm.disk)
    raw.unlink()
    host.run(*port, f"--medium={vm.disk}")
    host.run("modifyvm", vm.uuid, f"--memory={memory_mib}")
    return vm


def bytes_of_disk(vm: RealVm) -> bytes:
    """All of the first disk of a VM that is stopped."""
    file = vm.host.vms / f"{vm.uuid}.read"
    file.unlink(missing_ok=True)
    words = ("mediumio", f"--disk={vm.info('SATA-0-0')}", "cat", f"--output={file}")
    vm.host.run(*words)
    try:
        return file.read_bytes()
    finally:
        file.unlink()
