"""The `database` worker after its machine was restarted, and on a full copy of one at work."""

from dataclasses import replace

import pytest

from shared.state.records import Power
from shared.state.rules import backup as backup_rules
from shared.state.rules import claims
from shared.state.sessions.session import Session
from tests.simulated.conftest import Rig
from worker import database


@pytest.fixture
def earlier(rig: Rig) -> Session:
    """A worker of another boot of host alpha, which claims the VM `web01` when it is entered."""
    rig.host().make_vm("web01").start()
    site = rig.look()
    site.database.identity = replace(site.identity, boot="another")
    return site.database.session("backup")


def claim(session: Session) -> None:
    """Its backup has saved the VM."""
    _, own = session.claim(
        lambda contents: claims.grant(contents, "web01", session.id, "archive", "now"), "claim"
    )
    power = Power("savestate", "running", own.number)
    session.commit(lambda contents: backup_rules.touch(contents, "web01", own, power), "savestate")


def test_after_a_restart_one_run_frees_the_vm_and_brings_it_back(
    rig: Rig, earlier: Session
) -> None:
    earlier.__enter__()
    claim(earlier)
    rig.note_power("web01")
    rig.host().run("controlvm", "web01", "savestate")
    assert earlier.heartbeat.cease()
    assert database.run(rig.site()).done == ["web01"]
    assert (rig.record("web01").claim, rig.record("web01").power) == (None, None)
    assert rig.site().vboxmanage.info(rig.record("web01").uuid).state == "running"


def test_on_a_full_copy_nothing_is_taken_from_the_living_one(
    rig: Rig, earlier: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with earlier:
        claim(earlier)
        assert database.run(rig.site()).done == []
        record = rig.record("web01")
        assert record.claim is not None
        assert (record.claim.session, record.power is None) == (earlier.id, False)
        assert "the names and the machine id of this one" in caplog.text
        earlier.commit(lambda contents: contents, "it goes on")
