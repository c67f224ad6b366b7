"""Installing, updating and removing vmbackup on one host: `deploy/install`, `deploy/uninstall`.

Nothing here needs more than the Python of the system: it runs before anything is installed.
"""
