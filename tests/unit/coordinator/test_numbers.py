"""Claims get numbers above those of the copies that are there, however the database came to be.

CLEAN needs the copy, not its record.
"""

from pathlib import Path

import pytest

from shared.copies.names import make_stamp, parse_stamp
from shared.host.errors import ExitCode
from shared.state.numbers import CLAIM_LIMIT, believable, next_number, plausible
from shared.state.rules import claims
from shared.state.states import State
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy
from tests.unit.state.builders import WHEN, contents, only, vm

STAMP = "20261122T203800Z-17"


def plant(nas: Path) -> None:
    """Copies with numbers up to 40, live and archived, and names with numbers that no claim ever
    had.
    """
    put_copy(nas / "web", STAMP)
    put_copy(nas / "archive" / "old", "20261122T203800Z-40")
    for number in (999999999999999, 18446744073709551615):
        (nas / "web" / f"20260101T000000Z-{number}.ova").write_bytes(b"planted")
    (nas / "web" / ".20261122T203800Z-23.23.partial.ova").write_bytes(b"half")


def test_a_new_database_counts_on_above_all_that_is_there(operator: Operator) -> None:
    plant(operator.nas)
    assert operator.admin("init").exit_code == ExitCode.DONE
    assert operator.contents.claims_granted == 40


def test_after_a_generation_was_set_aside_numbers_go_on_above_all_that_is_there(
    operator: Operator,
) -> None:
    operator.admin("init", "--lease-seconds", "60")
    operator.add_vms("web")
    plant(operator.nas)
    newest = max((operator.vmstate / "gen").iterdir())
    path = newest / "snapshot" if newest.is_dir() else newest
    path.chmod(0o600)
    path.write_bytes(b"torn")
    operator.admin("statedb", "check", "--set-aside", str(int(newest.name)))
    assert operator.contents.claims_granted == 40


def test_numbers_out_of_bounds_are_told_of_and_believed_by_nobody(operator: Operator) -> None:
    operator.admin("init")
    plant(operator.nas)
    operator.add_vms("web")
    site = operator.site()
    assert site.floor("web") == 23
    warnings = operator.json("copies", "web")["warnings"]
    assert [("18446744073709551615" in line, "no copy can have" in line) for line in warnings] == [
        (True, True)
    ]
    rows = {row["stamp"]: row for row in operator.json("copies", "web")["copies"]}
    assert not rows["20260101T000000Z-999999999999999"]["good"]


def test_a_claim_has_a_number_above_its_vms_files() -> None:
    database = contents(vm("web01"), granted=5)
    assert (
        only(claims.grant(database, "web01", "alpha.1", "verify", WHEN, floor=40)).claim.number
        == 41
    )  # type: ignore[union-attr]
    assert (
        only(claims.grant(database, "web01", "alpha.1", "verify", WHEN, floor=3)).claim.number == 6
    )  # type: ignore[union-attr]
    assert (
        only(
            claims.grant(database, "web01", "alpha.1", "verify", WHEN, floor=10**12 + 1)
        ).claim.number
        == 6
    )  # type: ignore[union-attr]
    assert claims.raise_numbers(database, 40).claims_granted == 40
    assert claims.raise_numbers(database, 10**13) == claims.raise_numbers(database, 1) == database


def test_no_counter_reaches_a_number_that_stamps_cannot_have() -> None:
    highest = max(
        floor for floor in (10**12 - 1, 10**12, 10**12 + 1, 10**13, 2**53) if believable(floor)
    )
    assert highest == 10**12
    for granted in (
        1,
        highest,
        highest + 10**11,
    ):  # whatever is planted, the numbers after it are those of copies that count
        assert plausible(next_number(granted, highest))
    assert not believable(2 * 10**12)
    assert next_number(2 * 10**12, 2 * 10**12) < CLAIM_LIMIT
    moment = parse_stamp(STAMP).moment
    assert parse_stamp(make_stamp(moment, CLAIM_LIMIT - 1)).claim == CLAIM_LIMIT - 1
    with pytest.raises(ValueError, match="no counter"):
        make_stamp(moment, CLAIM_LIMIT)


def test_clean_is_not_adopted_without_the_copy(site_with_database: Operator) -> None:
    operator = site_with_database
    operator.add_vms("web")
    operator.set("web", status=State.BACKUP_NECESSARY, last_copy=copy(STAMP))
    view = operator.vmstate / "vmtool-statedb"
    text = view.read_text().replace("web:BACKUP_NECESSARY", "web:CLEAN")
    view.unlink()
    view.write_text(text)
    result = operator.admin("statedb", "adopt")
    assert (result.exit_code, STAMP in result.stderr) == (ExitCode.STATE_REFUSED, True)
    put_copy(operator.nas / "web", STAMP)
    assert operator.admin("statedb", "adopt").exit_code == ExitCode.DONE
    assert operator.record("web").status == State.CLEAN
