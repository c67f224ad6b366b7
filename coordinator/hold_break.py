"""`vmbackup-lock break` for a hold: the way to end it without the VM that runs from the copy."""

from typing import TYPE_CHECKING

from coordinator import locks_held
from shared.host.errors import LockedError, UsageError
from shared.host.printable import printable
from shared.output import answer, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.site import Site
    from shared.state.contents import Contents
    from shared.state.rules.holds import Held


def find(site: "Site", contents: "Contents", name: str) -> "list[Held]":
    """The holds that `name` means: one of that title, or those on the copies of a VM."""
    from shared.tasks import copy_hold

    if name == locks_held.DATABASE or name in contents.sessions:
        return []
    return copy_hold.named(site, contents, name)


def end(
    site: "Site", name: str, found: "Sequence[Held]", *, force: bool, as_json: bool, dry_run: bool
) -> None:
    """Ends a hold, and warns of what is lost with it.

    Raises `LockedError` without `force`, `UsageError` if several are meant.
    """
    from shared.tasks import copy_hold

    if len(found) > 1:
        titles = ", ".join(sorted(printable(each.hold.title) for each in found))
        raise UsageError(f"several copies of {name} are held", hint=f"name one: {titles}")
    (held,) = found
    what = f"the copy {held.hold.stamp} of {printable(held.vm)} is {held.hold.words}"
    if not (force or dry_run):
        raise LockedError(f"{what}; nothing ends that by itself", hint=f"--force: {held.hold.loss}")
    document = {"name": name, "freed": not dry_run, "dry_run": dry_run, "kind": "hold"}
    document |= {"consequence": held.hold.loss}
    if dry_run:
        answer(document, f"would free {name}: {held.hold.loss}", as_json=as_json)
        return
    free = copy_hold.end(site, held)
    warn(f"{what}: {held.hold.loss}")
    later = "" if free else "; the next database worker of any host takes its mark off the copy"
    answer({**document, "marked": not free}, f"freed {name}{later}", as_json=as_json)
