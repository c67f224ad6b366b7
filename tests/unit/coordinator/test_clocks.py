"""Times that lie in the future, as status, show and copies tell of them."""

from dataclasses import replace

from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy

FUTURE = "2038-01-19T03:14:08Z"


def test_times_in_the_future_are_warned_about_and_have_no_age(site_with_database: Operator) -> None:
    operator = site_with_database
    operator.add_vms("web01", "db02")
    operator.set("web01", last_copy=replace(copy(), finished=FUTURE))
    operator.set("db02", last_copy=copy(), verified=FUTURE)
    document = operator.json("status")
    assert [
        vm["last_copy"]["age_seconds"] is None
        for vm in sorted(document["vms"], key=lambda vm: vm["name"])
    ] == [False, True]
    (warning,) = document["warnings"]
    assert "db02 was last verified at 2038-01-19 03:14:08Z" in warning
    assert "web01 was last copied (20261122T203800Z-17) at 2038-01-19 03:14:08Z" in warning
    assert "The clock of the host alpha was wrong then" in warning
    assert f"warning: {warning}"[:60] in operator.admin("status").stderr
    assert operator.json("show", "web01")["warnings"]
    assert "of unknown age" in operator.admin("show", "web01").stdout


def test_a_copy_that_is_dated_in_the_future_is_warned_about(site_with_database: Operator) -> None:
    operator = site_with_database
    operator.add_vms("web01")
    stamp = "20261122T203800Z-17"
    put_copy(operator.nas / "web01", stamp, uuid=operator.record("web01").uuid)
    assert operator.json("copies", "web01")["warnings"] == []
    put_copy(operator.nas / "web01", stamp, uuid=operator.record("web01").uuid, finished=FUTURE)
    for command in ("copies", "show"):
        (warning,) = operator.json(command, "web01")["warnings"]
        assert f"web01 {stamp} is dated 2038-01-19 03:14:08Z" in warning
