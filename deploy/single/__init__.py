"""The single file with all programs, for this platform and this Python: `make dist`."""
