"""Two users of one machine whose configurations name one host.

Their VMs are never taken for each other's.
"""

import os

import pytest

from shared.host.errors import NodeConflictError
from shared.state.host_records import NodeRecord
from shared.state.rules import hosts
from tests.simulated.conftest import Rig
from worker import vmfind


class User:
    """Who runs the workers now."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.becomes(1000)

    def becomes(self, number: int) -> None:
        self._patch.setattr(os, "geteuid", lambda: number)


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> User:
    return User(monkeypatch)


def owner(rig: Rig) -> NodeRecord:
    return rig.site().database.head().contents.nodes["alpha"]


def test_the_second_user_is_refused_with_the_cure_and_nothing_is_missing(
    rig: Rig, user: User
) -> None:
    rig.host().make_vm("web")
    vmfind.run(rig.site())
    before = rig.site().database.head().generation
    rig.host().run(
        "unregistervm", rig.record("web").uuid
    )  # the other user's VirtualBox does not list it
    rig.host().make_vm("own")
    user.becomes(1001)
    with pytest.raises(NodeConflictError) as caught:
        vmfind.run(rig.site())
    assert "1000" in caught.value.message
    assert "host.node" in caught.value.hint
    assert "vmbackup-lock recover alpha --replaced" in caught.value.hint
    assert (rig.site().database.head().generation, rig.record("web").missing_since) == (
        before,
        None,
    )


def test_the_owner_is_noted_once(rig: Rig, user: User) -> None:
    rig.host().make_vm("web")
    assert vmfind.run(rig.site()).done == ["web found on alpha"]
    assert (owner(rig).user, owner(rig).machine) == ("1000", rig.site().identity.machine)
    before = rig.site().database.head().generation
    assert vmfind.run(rig.site()).done == []
    assert rig.site().database.head().generation == before


def test_in_an_older_database_the_first_who_has_vms_is_the_owner(rig: Rig, user: User) -> None:
    rig.host().make_vm("web")
    vmfind.run(rig.site())
    machine, hostname = owner(rig).machine, owner(rig).hostname
    older = NodeRecord("alpha", machine, hostname)
    rig.site().database.commit_once(lambda contents: contents.with_node(older), "as it was", "test")
    assert vmfind.run(rig.site()).done == ["the VMs of alpha are those of uid 1000"]
    assert owner(rig) == NodeRecord("alpha", machine, hostname, "1000")


def test_a_user_without_vms_owns_nothing(rig: Rig, user: User) -> None:
    site = rig.site()
    joined = NodeRecord("alpha", site.identity.machine)
    site.database.commit_once(lambda contents: contents.with_node(joined), "init", "test")
    user.becomes(0)
    vmfind.run(rig.site())
    assert owner(rig) == joined


def test_workers_that_get_another_user_go_on_after_recover_replaced(rig: Rig, user: User) -> None:
    rig.host().make_vm("web")
    vmfind.run(rig.site())
    site = rig.site()
    here = site.identity
    site.database.commit_once(
        lambda contents: hosts.replace_machine(contents, "alpha", here.machine, here.hostname),
        "another user",
        "test",
    )
    user.becomes(1001)
    vmfind.run(rig.site())
    assert owner(rig).user == "1001"


def test_that_all_of_several_vms_are_gone_at_once_is_warned_of(
    rig: Rig, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    """One user with two VirtualBox homes: cron has no VBOX_USER_HOME, say."""
    del user
    host = rig.host()
    for name in ("web", "mail"):
        host.make_vm(name)
    vmfind.run(rig.site())
    host.run("unregistervm", rig.record("web").uuid)
    vmfind.run(rig.site())
    assert "not one of" not in caplog.text, "one that is left is no other home"
    host.make_vm("web02")
    vmfind.run(rig.site())
    for key in ("mail", "web02"):
        host.run("unregistervm", rig.record(key).uuid)
    host.make_vm("another")
    vmfind.run(rig.site())
    assert "not one of the 2 VMs of alpha is listed any more: is virtualbox.home" in caplog.text
    caplog.clear()
    vmfind.run(rig.site())
    assert caplog.text == ""
