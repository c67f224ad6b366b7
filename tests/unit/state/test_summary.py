"""How days ended, read from generations that are files, in the history, and in bundles."""

from pathlib import Path

import pytest

from shared.state.store import bundling, protocol, summary
from shared.state.store.bundle import Bundle, BundleName
from shared.state.store.kept_generations import bundles_in
from shared.state.store.state_files import StateFiles
from tests.unit.state.builders import state_files
from tests.unit.state.test_bundling import NOW, TOKENS, commit

DAYS = [f"2026-11-{day:02}" for day in range(10, 30)]


@pytest.fixture
def files(tmp_path: Path) -> StateFiles:
    """Three commits on each of twenty days, of which all but the last few are in bundles."""
    made = state_files(tmp_path, "link")
    for day in DAYS:
        commit(made, 3, f"{day}T12:00:00Z")
    made.run(protocol.prune(6))
    while made.run(bundling.bundle_oldest(NOW, next(TOKENS), 8)):
        pass
    return made


def ends(files: StateFiles) -> dict[str, int]:
    return {day: end.number for day, end in summary.ends_of_days(files.root, DAYS).items()}


@pytest.mark.broad
def test_a_day_ends_with_its_last_commit(files: StateFiles) -> None:
    assert ends(files) == {day: 4 + 3 * number for number, day in enumerate(DAYS)}


@pytest.mark.broad
def test_each_bundle_is_read_once(files: StateFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers ask for this at each page: a slow NAS would be asked for thousands of files."""
    read: list[BundleName] = []
    really = summary.read_bundle

    def counted(root: Path, name: BundleName) -> Bundle:
        read.append(name)
        return really(root, name)

    monkeypatch.setattr(summary, "read_bundle", counted)
    assert len(ends(files)) == len(DAYS)
    assert 0 < len(read) == len(set(read)) <= len(bundles_in(files.root))


@pytest.mark.broad
def test_a_damaged_bundle_costs_its_days(files: StateFiles) -> None:
    whole, (first, *_) = ends(files), bundles_in(files.root)
    (files.root / "history" / str(first)).write_bytes(b"damaged")
    left = ends(files)
    assert left == {day: number for day, number in whole.items() if number > first.last}
