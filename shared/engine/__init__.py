"""An export engine of our own: the OVA that `VBoxManage export` would make, compressed on all cores.

It reads VDI files itself, under VirtualBox's own read lock, and takes the description of the VM from VirtualBox.
"""
