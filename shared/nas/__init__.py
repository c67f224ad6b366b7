"""The only door to the NAS: is it mounted, is it ours, and reading and writing files on it."""
