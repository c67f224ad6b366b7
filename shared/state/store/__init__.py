"""The contents of the database as files on the NAS: generations, the commit protocol, the lease, repairs."""
