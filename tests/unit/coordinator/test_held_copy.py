"""A copy that is mounted stays held, whatever becomes of the database meanwhile."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from coordinator.mounting.held_copy import held
from shared.copies.names import final_name
from shared.host.errors import CopyError, ExitCode
from shared.state.rules import readers
from tests.support.copies import UUID, put_copy
from tests.support.waiting import wait_for
from tests.unit.coordinator.conftest import Operator

OLD, NEW = "20261121T000000Z-9", "20261122T203800Z-17"
AGAIN_SECONDS, LEASE_SECONDS = 0.05, 3600.0


@pytest.fixture
def web(operator: Operator) -> Operator:
    """A VM with two copies. In its lease nobody notices that the NAS takes no heartbeat."""
    operator.create(LEASE_SECONDS)
    operator.add_vms("web")
    for stamp in (OLD, NEW):
        put_copy(operator.nas / "web", stamp)
    return operator


def job(operator: Operator) -> dict[str, Any]:
    """What the server of a mounted copy is told, as far as it matters here."""
    ova = operator.nas / "web" / final_name(OLD, "ova")
    return {
        "hold": True,
        "config": str(operator.config),
        "uuid": UUID,
        "stamp": OLD,
        "ova": str(ova),
    }


def nodes(operator: Operator) -> dict[str, str]:
    """Which copies are held, and on which host."""
    return {stamp: row.node for stamp, row in readers.readers(operator.contents, UUID).items()}


def lose(operator: Operator) -> Path:
    aside = operator.folder / "aside"
    shutil.move(operator.vmstate, aside)
    return aside


def test_in_a_database_that_was_made_anew_it_is_held_again(web: Operator) -> None:
    with held(job(web), again_seconds=AGAIN_SECONDS):
        assert nodes(web) == {OLD: "alpha"}
        lose(web)
        assert web.admin("statedb", "rebuild", "--yes").exit_code == 0
        wait_for(lambda: nodes(web) == {OLD: "alpha"})
        refused = web.admin("remove", "web", OLD, "--yes")
        assert (refused.exit_code, "is being read" in refused.stderr) == (ExitCode.LOCKED, True)
    assert not nodes(web)


def test_another_host_holds_it_when_it_has_accepted_the_database(web: Operator) -> None:
    beta = Operator(web.folder, "beta")
    beta.configure()
    with held(job(beta), again_seconds=AGAIN_SECONDS), held(job(web), again_seconds=AGAIN_SECONDS):
        lose(web)
        assert web.admin("statedb", "rebuild", "--yes").exit_code == 0
        wait_for(lambda: nodes(web) == {OLD: "alpha"})
        assert {row.node for row in web.contents.sessions.values() if row.reads} == {"alpha"}
        assert beta.admin("statedb", "accept", "--yes").exit_code == 0
        wait_for(
            lambda: (
                {row.node for row in web.contents.sessions.values() if row.reads}
                == {"alpha", "beta"}
            )
        )


def test_a_copy_that_is_gone_is_not_held(web: Operator) -> None:
    gone = job(web)
    Path(gone["ova"]).unlink()
    with pytest.raises(CopyError, match="is gone"), held(gone, again_seconds=AGAIN_SECONDS):
        pass
    assert not nodes(web)
