"""Databases as programs of other versions leave them."""

import re
from dataclasses import replace
from pathlib import Path

from shared.state.store.snapshot import decode, encode


def give_format(vmstate: Path, version: str, *, generation: bool = True, file: bool = True) -> None:
    """Gives the newest generation, the version file, or both, this format, and changes no more."""
    if generation:
        newest = max((vmstate / "gen").iterdir())
        snapshot = decode(newest.read_bytes(), int(newest.name))
        newest.write_bytes(encode(snapshot.header, replace(snapshot.contents, format=version)))
    if file:
        path = vmstate / "vmtool-db-version"
        path.write_text(re.sub(r"(?m)^DB_VERSION: .*$", f"DB_VERSION: {version}", path.read_text()))
