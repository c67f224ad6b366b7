"""What counts against `backup.bytes_per_second`: what is sent and read back, and nothing else."""

import logging
from collections.abc import Callable

import pytest

from shared.copies import sidecar_files
from shared.copies.sidecar import Sidecar
from shared.host.rate_limit import FILE_NAME, RateLimit
from shared.tasks import verification
from shared.tasks.vm_copies import copies
from tests.simulated.conftest import Rig
from tests.simulated.test_engine_choice import copied as copied  # noqa: PLC0414 - a fixture
from tests.simulated.test_policies import sidecar
from tests.simulated.test_verify import age, two_copies
from worker import verify
from worker.backup import worker as backup

#: No limit that anybody would notice.
FAST = "1 TB"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that counted, as they are asked for; nobody waits."""
    counts: list[int] = []

    def take(_limit: RateLimit, count: int, _should_stop: Callable[[], bool]) -> None:
        counts.append(count)

    monkeypatch.setattr(RateLimit, "take", take)
    return counts


def beside(found: Sidecar) -> int:
    """Side files, which are sent and read back, too."""
    return 2 * sum(side.size for side in found.files.values())


def test_a_copy_counts_when_it_is_sent_and_when_it_is_read_back(rig: Rig, taken: list[int]) -> None:
    rig.host().make_vm("web01")
    rig.look()
    assert backup.run(rig.site(engine="parallel", bytes_per_second=FAST)).done == ["web01"]
    found = sidecar(rig, "web01")
    assert sum(taken) == 2 * found.size + beside(found)


def test_what_the_nas_copies_by_itself_was_not_sent(
    taken: list[int], copied: Callable[..., Sidecar]
) -> None:
    copied()
    taken.clear()
    found = copied(bytes_per_second=FAST)
    assert found.wire is not None
    assert found.wire.copied
    assert sum(taken) == found.wire.sent + found.size + beside(found)


def test_what_virtualbox_sends_is_not_bounded_and_that_is_said(
    rig: Rig, taken: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    with caplog.at_level(logging.INFO):
        assert backup.run(rig.site(engine="vboxmanage", bytes_per_second=FAST)).done == ["web01"]
    found = sidecar(rig, "web01")
    assert sum(taken) == found.size + beside(found)
    assert "backup.bytes_per_second does not bound this export" in caplog.text


def test_a_verification_counts_in_full(rig: Rig, taken: list[int]) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old, new)
    assert not taken, "without a limit nothing is counted"
    assert verify.run(rig.site(bytes_per_second=FAST)).failed == []
    copies = [sidecar_files.read(rig.nas / "web01", stamp) for stamp in (old, new)]
    assert sum(taken) == sum(found.size + beside(found) // 2 for found in copies)


def test_a_restore_is_not_bounded(rig: Rig, taken: list[int]) -> None:
    two_copies(rig)
    site = rig.site(bytes_per_second=FAST)
    for copy, _ in copies(site, rig.record("web01")):
        verification.check(copy)
        verification.check_side_files(copy)
    assert not taken


def test_all_of_it_waits_in_the_state_directory_of_the_host(rig: Rig) -> None:
    rig.host().make_vm("web01")
    rig.look()
    site = rig.site(engine="parallel", bytes_per_second=FAST)
    assert backup.run(site).done == ["web01"]
    assert (site.configuration.host.state_directory / FILE_NAME).is_file()
