"""What is said where something cannot be unmounted."""

import pwd

from shared.host.errors import LockedError
from shared.host.printable import quoted


def unmountable(place: str, why: str, hint: str) -> LockedError:
    """Why not, and what helps."""
    return LockedError(f"{place} cannot be unmounted: {why}", hint=hint)


def of_another(place: str, owner: int | None) -> LockedError:
    """It is of this user, or of who is not known."""
    if owner is None:
        return unmountable(place, "who mounted it is not known", "see /proc/self/mounts")
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    command = f"sudo -u {quoted(name)} vmbackup-admin umount {quoted(place)}"
    return unmountable(place, f"it belongs to the user {name}", f"only that one may: {command}")
