"""What is inside the disks of a copy: partitions, file systems, files."""
