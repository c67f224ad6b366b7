"""The formats that a copy consists of, reading beside writing.

Nothing here knows of VMs, databases or the NAS.
"""
