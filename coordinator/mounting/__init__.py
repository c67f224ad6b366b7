"""A copy as read-only files of this host: served by a process of its own, through FUSE."""
