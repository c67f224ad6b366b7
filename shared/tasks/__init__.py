"""What workers and commands both do.

A VM's copies, its record and its files on the NAS, changed together.
"""
