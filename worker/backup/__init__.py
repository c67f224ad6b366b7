"""Backups of the VMs that wait: from the queue to a published copy."""

from worker.backup.worker import command

__all__ = ["command"]
