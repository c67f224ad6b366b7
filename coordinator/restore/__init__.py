"""Getting VMs back: restoring copies, and rehearsing it."""
