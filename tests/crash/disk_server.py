"""The server of disks as a program that is killed at its own crash points.

In life `boot` starts it, and nobody waits for it. Here it is run by itself, for a VM that was
begun, off, and served by nobody: it fills the disks, makes an ordinary VM of it, and ends.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from coordinator.booting import disk_server
from shared.copies import catalogue
from shared.copies.names import final_name
from shared.host.clock import SystemClock
from shared.host.configuration import load
from shared.site import open_site
from shared.tasks import boot_note


class Program:
    """What the other programs have: a `main` that takes arguments."""

    def main(self, arguments: Sequence[str]) -> None:
        """Serves the disks of the VM that is named, until it is settled."""
        os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
        configuration = load(None)
        note = boot_note.named(configuration.host.state_directory, arguments[0])
        assert note
        site = open_site(configuration, SystemClock())
        (record,) = (
            each for each in site.database.head().contents.vms.values() if each.uuid == note.vm
        )
        copy = catalogue.read(Path(site.stated_directory(record)), note.vm).find(note.stamp)
        assert copy
        assert copy.sidecar
        disk_server.serve_alone(
            {
                "note": str(note.file),
                "ova": str(copy.directory / final_name(copy.stamp, "ova")),
                "sha256": copy.sidecar.sha256,
                "config": None,
                "fresh": False,
                "indexed": not note.index.startswith("sha256:"),
            }
        )


program = Program()
