"""The contents of the database as files on the NAS.

Generations, the commit protocol, the lease, repairs.
"""
