"""Hosts: which machine and which user have a host's name. Pure."""

from dataclasses import replace

from shared.host.errors import NodeConflictError
from shared.host.printable import quoted
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord


def join(contents: Contents, node: str, machine: str, hostname: str) -> Contents:
    """Registers the machine behind a host name.

    Raises `NodeConflictError` if another machine has that name.
    """
    check_machine(contents, node, machine)
    known = contents.nodes.get(node)
    if known is None:
        return contents.with_node(NodeRecord(node, machine, hostname))
    if machine and not known.machine:  # it had no machine id; now it is told from others
        return contents.with_node(replace(known, machine=machine, hostname=hostname))
    return contents


def check_machine(contents: Contents, node: str, machine: str) -> None:
    """Raises `NodeConflictError` if the name `node` belongs to another machine than `machine`.

    Also if its record does not fit, so that this cannot be known.
    """
    if row := contents.unusable_row("nodes", node):
        raise NodeConflictError(
            row.message,
            hint=f"if no newer program wrote it: `vmbackup-lock recover {node} --replaced`",
        )
    known = contents.nodes.get(node)
    if known is not None and known.machine and machine and known.machine != machine:
        raise NodeConflictError(
            (
                f"another machine (host name {known.hostname or 'unknown'}, machine id "
                f"{known.machine[:12]}…) already backs up as {node!r}"
            ),
            hint=f"give this host a name of its own: host.node in the configuration, or "
            f"VMBACKUP_NODE. If this machine replaces that one, "
            f"run `vmbackup-lock recover {quoted(node)} --replaced` first",
        )


def check_user(contents: Contents, node: str, user: str) -> None:
    """Raises `NodeConflictError` if the VMs of `node` belong to another user than `user`."""
    known = contents.nodes.get(node)
    if known is not None and known.user and known.user != user:
        raise NodeConflictError(
            (
                f"the VMs of {node!r} are those of another user (uid {known.user}), and this "
                f"is uid "
                f"{user}"
            ),
            hint="workers run as the user who owns the VMs. If this one has some, give it a "
            "configuration with a host.node of its own; "
            f"if the workers' user was changed on purpose: `vmbackup-lock recover {quoted(node)} "
            f"--replaced`",
        )


def set_user(contents: Contents, node: str, user: str) -> Contents:
    """Notes the user of a host that has joined. Raises what `check_user` raises."""
    check_user(contents, node, user)
    known = contents.nodes.get(node)
    return (
        contents.with_node(replace(known, user=user))
        if known is not None and known.user != user
        else contents
    )


def give_up(contents: Contents, node: str, when: str) -> Contents:
    """Marks all VMs of a host as missing there: a host that lists one takes it over at once.

    Nor does it have any other that is on another host as well.
    """
    missing = [
        replace(record, missing_since=when)
        for record in contents.vms.values()
        if record.node == node and record.missing_since is None
    ]
    others = [
        replace(record, also_on=None)
        for record in contents.vms.values()
        if record.node != node and record.also_on == node
    ]
    return contents.with_vm(*missing, *others)


def replace_machine(contents: Contents, node: str, machine: str, hostname: str) -> Contents:
    """Gives the name `node` to the machine that replaces the one it belonged to.

    With an empty `machine`, to the first that comes. Its user is forgotten: the first that comes is
    noted.
    """
    others = {name: known for name, known in contents.nodes.items() if name != node}
    contents = replace(contents, nodes=others).without_unusable("nodes", node)
    return contents.with_node(NodeRecord(node, machine, hostname)) if machine else contents
