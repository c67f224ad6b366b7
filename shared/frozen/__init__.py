"""Frozen images: reflink clones of a VM's disks, made in a moment, and what differs between two."""
