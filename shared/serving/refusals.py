"""What is said where something cannot be unmounted."""

import pwd
from typing import Final

from shared.host.errors import LockedError, UsageError
from shared.host.printable import quoted

_BY_FORCE: Final = "--force unmounts it all the same"


def unmountable(place: str, why: str, hint: str) -> LockedError:
    """Why not, and what helps."""
    return LockedError(f"{place} cannot be unmounted: {why}", hint=hint)


def taken(place: str, what: str, *, hangs: bool) -> UsageError:
    """A copy is mounted there already; `hangs`: its server does not answer."""
    umount = "vmbackup-admin umount"
    if not hangs:
        return UsageError(
            f"{place} has a copy already: {what}", hint=f"`{umount} {quoted(place)}` first"
        )
    return UsageError(
        f"{place} has a copy already, whose server does not answer: {what}",
        hint="it was stopped, hangs, or waits for the NAS: "
        f"`{umount} --force {quoted(place)}` ends it; or another directory",
    )


def open_file(place: str) -> LockedError:
    """Somebody has one of the files open that are mounted there one by one."""
    who = f"something is open there: `fuser -v {quoted(place)}/*`, `losetup -l`"
    return unmountable(place, "a file is open", f"{who}; {_BY_FORCE}")


def refused(place: str, why: str, *, by_force: bool) -> LockedError:
    """The program that unmounts did not."""
    hint = f"something is open there: `fuser -vm {quoted(place)}`; {_BY_FORCE}"
    return unmountable(place, why, f"as root: umount -l {quoted(place)}" if by_force else hint)


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
