"""`make demo`: two VirtualBox hosts and one NAS, and what a person wants to see once."""
