"""What status says of the room on the NAS, and of VMs that wait for room or until they may be
stopped again.
"""

from shared.state.states import State
from tests.unit.coordinator.conftest import Operator, copy


def test_a_nas_with_less_free_than_its_reserve_is_warned_about_even_if_all_is_clean(
    site_with_database: Operator,
) -> None:
    operator = site_with_database
    operator.add_vms("web01")
    operator.set("web01", status=State.CLEAN, last_copy=copy())
    assert operator.json("status")["warnings"] == []
    operator.configure(reserve="1000000 TiB")
    document = operator.json("status")
    (warning,) = document["warnings"]
    assert "free, less than nas.reserve (1000000.0 TiB): no backup begins" in warning
    assert document["nas"]["free"] < document["nas"]["reserve"]
    assert "no backup begins" in operator.admin("status").stderr


def test_it_says_until_when_a_vm_is_not_stopped_again(site_with_database: Operator) -> None:
    operator = site_with_database
    operator.add_vms("web01")
    waiting = "waits until 2026-11-29 03:10Z before it is stopped again (2 failed backups)"
    operator.set(
        "web01",
        status=State.BACKUP_NECESSARY,
        waiting=waiting,
        outages_failed=2,
        next_outage="2026-11-29T03:10:00Z",
    )
    (vm,) = operator.json("status")["vms"]
    assert (vm["waiting"], vm["outages_failed"], vm["next_outage"]) == (
        waiting,
        2,
        "2026-11-29T03:10:00Z",
    )
    for command in (("status",), ("show", "web01")):
        assert waiting in operator.admin(*command).stdout
