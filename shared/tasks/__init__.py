"""What workers and commands both do: change a VM's copies and its record together."""
