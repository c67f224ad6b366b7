"""The parallel export engine: makes the OVA that `VBoxManage export` would make, on all cores.

`parallel` is its door, `engine` exports one VM, `pipeline` one disk.
"""
