"""The NAS as a place.

Whether it is mounted, where directories are, files read and written so that it counts.
"""
