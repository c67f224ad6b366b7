"""The long tests of the promises: `make prove`."""
