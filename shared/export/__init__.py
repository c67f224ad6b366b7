"""The engines that export VMs.

The parallel one, which makes the OVA that `VBoxManage export` would make, on all cores.
"""
