"""The table of VMs that VirtualBox can make: see README.md."""
