"""A VM that runs from its copy: disks that are served while they are filled."""
