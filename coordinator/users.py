"""Users of this host, as people call them."""

import pwd

from shared.host.printable import quoted


def name_of(uid: int) -> str:
    """The name of a user; `uid 1000` where nobody of this host has that number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def run_as(uid: int, command: str) -> str:
    """What runs a command as that user."""
    try:
        user = quoted(pwd.getpwuid(uid).pw_name)
    except KeyError:
        user = f"'#{uid}'"
    return f"sudo -u {user} {command}"
