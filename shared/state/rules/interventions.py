"""What operators do to the database by hand, when they know what the machines cannot.

Pure, like `shared.state.rules.changes`.
"""

from dataclasses import replace

from shared.host.errors import IllegalMoveError
from shared.state.records import Contents, NodeRecord
from shared.state.rules import changes
from shared.state.states import IN_FLIGHT, State


def break_claim(contents: Contents, key: str, number: int, reason: str, when: str) -> Contents:
    """Takes claim `number` on a VM away from its session, which is refused at its next step.

    Changes nothing if it is over already.

    An intent to publish stays: whoever comes next finishes it.
    """
    record = contents.vms.get(key)
    if record is None or record.claim is None or record.claim.number != number:
        return contents
    if record.status in IN_FLIGHT and record.publishing is None:
        contents = changes.failed(contents, key, record.claim, reason, when)
    return contents.with_vm(replace(contents.vms[key], claim=None, leftovers=True))


def give_up_node(contents: Contents, node: str, when: str) -> Contents:
    """Marks all VMs of a host as missing there, so that another host which lists one of them takes it over at once."""
    for record in list(contents.vms.values()):
        if record.node == node and record.missing_since is None:
            contents = contents.with_vm(replace(record, missing_since=when))
    return contents


def replace_machine(contents: Contents, node: str, machine: str, hostname: str) -> Contents:
    """Gives the name `node` to the machine that replaces the one it belonged to.

    An empty `machine`: to the first that comes.

    Whose VMs its VMs are is forgotten: those of the first user that comes.
    """
    others = {name: known for name, known in contents.nodes.items() if name != node}
    contents = replace(contents, nodes=others).without_unusable("nodes", node)
    return contents.with_node(NodeRecord(node, machine, hostname)) if machine else contents


def archive_again(
    contents: Contents, key: str, session: str, when: str, floor: int = 0
) -> Contents:
    """Claims a VM that is ARCHIVED already, but whose copies were still being moved, for moving them to the archive.

    Raises `LockedError` while somebody moves them, and `IllegalMoveError` if they were moved long
    ago.
    """
    record = changes.find(contents, key)
    changes.require_free(record)
    if record.status != State.ARCHIVED or record.moving is None:
        raise IllegalMoveError(f"{key} is {record.status} already")
    return changes.claim(
        contents.with_vm(replace(record, moving="archive")),
        key,
        session,
        "archive",
        when,
        floor=floor,
    )
