"""Whether anybody is at work, by heartbeats alone: for when no database tells who there is."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from shared.host.clock import Clock
from shared.nas.nas_errors import nas_error
from shared.nas.reading import look, read_file

#: Longer than any heartbeat.
_LIMIT_BYTES: Final = 1 << 22


def moved_heartbeats(
    directory: Path,
    clock: Clock,
    seconds: float,
    poll_seconds: float,
    progress: Callable[[float], None] = lambda _: None,
) -> list[str]:
    """Watches the heartbeats in `directory` for `seconds`: the names of those that moved.

    One that was written, appeared or went away has moved: somebody is there. Returns at the first
    that does, and at once if there are none. What is hidden is no heartbeat: hosts note there when
    they looked. Raises `NasError` if they cannot be read.
    """
    before = _beats(directory)
    end = clock.monotonic() + seconds
    while before and clock.monotonic() < end:
        progress(max(0.0, seconds - (end - clock.monotonic())))
        clock.sleep(min(poll_seconds, max(0.0, end - clock.monotonic())))
        after = _beats(directory)
        if after != before:
            return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return []


def _beats(directory: Path) -> Mapping[str, bytes]:
    try:
        return {
            name: read_file(directory / name, _LIMIT_BYTES, follow=False)
            for name, entry in look(directory).items()
            if entry.is_file and not name.startswith(".")
        }
    except FileNotFoundError:  # it went away in between
        return {}
    except OSError as error:
        raise nas_error(error, f"read the heartbeats in {directory}") from error
