"""The page: all backups at a glance, as one HTML file that needs nothing else."""
