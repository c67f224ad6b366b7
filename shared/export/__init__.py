"""The engines that export VMs: the parallel one, which makes the OVA that `VBoxManage export` would make, on all cores."""
