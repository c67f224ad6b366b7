"""What workers and commands both do: a VM's copies, its record and its files on the NAS, changed together."""
