"""What a simulated host remembers of a NAS that cannot be measured, because it is a directory."""

import json
from pathlib import Path

from shared.host.clock import SystemClock, timestamp
from shared.nas.mount import Mount
from shared.nas.server_copy import ServerCopy, mount_key


def note_server_copy(
    state_directory: Path, mount: Mount, *, copies: bool = True, shares: bool | None = None
) -> None:
    """Has the host remember that the mount was measured just now."""
    found = ServerCopy(timestamp(SystemClock().now()), copies, shares, "")
    state_directory.mkdir(parents=True, exist_ok=True)
    note = {mount_key(mount): found.to_json()}
    (state_directory / "server-copies.json").write_text(json.dumps(note))
