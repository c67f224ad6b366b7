"""`make demo`: two VirtualBox hosts, one NAS directory, and everything that a person wants to have seen once."""
