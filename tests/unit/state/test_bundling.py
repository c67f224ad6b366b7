"""Old generations go into bundles on a real directory: what stays, what goes, what may go wrong."""

import errno
import gzip
import hashlib
import os
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from shared.host.errors import DatabaseDamagedError, NasError
from shared.state.contents import Contents
from shared.state.store import bundling, generations, history_files, layout, protocol, summary
from shared.state.store.anchor import newest_anchor
from shared.state.store.bundle import Bundle, BundleName
from shared.state.store.generations import kept, read_from_file, read_number
from shared.state.store.history import Committed, walk
from shared.state.store.history_operations import PutBundle, ReadHistoric, SyncBundle
from shared.state.store.inspection import inspect
from shared.state.store.kept_generations import bundles_in, read_bundle
from shared.state.store.layout import generation_file, generation_name, history_of
from shared.state.store.protocol import Author
from shared.state.store.state_files import StateFiles
from tests.unit.state.builders import LATER, WHEN, session, state_files, vm

NOW = "2026-12-01T00:00:00Z"
VM = "web01"
OF_ONE = [f'"key":"{VM}"']
#: Random digits, each once.
TOKENS = (f"{number:08x}" for number in count())


@pytest.fixture(params=["link", "directory"])
def files(tmp_path: Path, request: pytest.FixtureRequest) -> StateFiles:
    return state_files(tmp_path, request.param)


def commit(files: StateFiles, count: int, when: str = WHEN) -> None:
    """So many commits; every third changes the VM, and each another one."""
    for _ in range(count):
        number = files.run(protocol.read_head()).generation

        def change(contents: Contents, number: int = number) -> Contents:
            changed = contents.with_vm(vm("db", last_error=f"error {number}"))
            return (
                changed.with_vm(vm(VM, missing_since=str(number))) if number % 3 == 0 else changed
            )

        author = Author(session(f"alpha.{number}", "ended"), 1, when, f"commit {number}")
        files.run(protocol.transact(author, change))


def history(files: StateFiles, count: int = 12, keep: int = 3) -> list[bytes]:
    """So many generations, of which the last few stay in `gen/`; the bytes of all, by number."""
    commit(files, count - 1)
    everything = [raw(files, number) for number in range(1, count + 1)]
    files.run(protocol.prune(keep))
    return [b"", *everything]


def raw(files: StateFiles, number: int) -> bytes:
    return generation_file(files.root / "gen" / generation_name(number)).read_bytes()


def loose(files: StateFiles) -> list[int]:
    return list(files.history.oldest(10**6))


def bundle(files: StateFiles, size: int = 4, **bounds: int) -> int:
    return files.run(bundling.bundle_oldest(NOW, next(TOKENS), size, **bounds))


def everything(files: StateFiles) -> list[tuple[int, Any]]:
    return [(found.number, (found.header, found.before, found.after)) for found in walk(files.root)]


def only_bundle(files: StateFiles) -> Path:
    (name,) = bundles_in(files.root)
    return files.root / "history" / str(name)


class TestBundling:
    def test_all_is_as_before_in_a_tenth_of_the_files(self, files: StateFiles) -> None:
        whole = history(files)
        before, checked = everything(files), inspect(files.root)
        of_one = [found.number for found in walk(files.root, naming=OF_ONE)]
        assert [bundle(files) for _ in range(3)] == [4, 4, 0]
        assert loose(files) == [9]
        assert everything(files) == before
        assert [found.number for found in walk(files.root, naming=OF_ONE)] == of_one == [10, 7, 4]
        after = inspect(files.root)
        assert (after.generations, after.findings, after.bundles) == (12, checked.findings, 2)
        assert [files.history.checksum(number) for number in (1, 5, 8)] == [
            whole[number][-65:-1].decode() for number in (1, 5, 8)
        ]
        assert sorted(os.listdir(files.root / "tmp")) == []

    def test_what_goes_into_a_bundle_while_it_is_looked_for_is_found(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = history(files)

        def late(root: Path, number: int) -> bytes | None:
            bundle(files)
            return read_from_file(root, number)

        monkeypatch.setattr(generations, "read_from_file", late)
        assert generations.read_bytes(files.root, 1) == whole[1]

    def test_what_cannot_be_looked_for_is_not_called_gone(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history(files)
        assert bundle(files) == 4

        def fails(_: Path) -> list[str]:
            raise OSError(errno.EIO, "the NAS is away")

        for module in (layout, generations):
            monkeypatch.setattr(module, "list_fresh", fails)
        with pytest.raises(NasError):
            read_number(files.root, 1)

    def test_a_bundle_ends_before_it_is_too_long_to_be_read_back(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history(files)
        for number in loose(files):
            path = generation_file(history_of(files.root, number) / generation_name(number))
            path.chmod(0o600)
            path.write_bytes(b"".join(b"%d %d\n" % (number, line) for line in range(1000)))
        longest = 10 * path.stat().st_size  # one that differs in each line counts for two
        monkeypatch.setattr("shared.state.store.bundle.LIMIT_BYTES", longest)
        bounds = {"most_read": longest, "most_packed": longest // 4}
        assert [bundle(files, size, **bounds) for size in (9, 7, 5)] == [2, 2, 2]
        assert loose(files) == [7, 8, 9]

    def test_a_bundle_of_which_nothing_can_be_made_stops_nobody(self, files: StateFiles) -> None:
        history(files)
        record = b"0,0,1\na\n", b"0,1,1\nb\nc\n"  # whoever may write to the NAS can seal it
        table = b'{"numbers":[3,4],"lengths":[8,10]}'
        body = b"vmbackup-history 1\n" + table + b"\n" + b"".join(record)
        digest = hashlib.sha256(body).hexdigest()
        name = BundleName(3, 4, "20200101T000000Z", digest[:32], "01234567")
        planted = files.root / "history" / str(name)
        planted.write_bytes(gzip.compress(body + f"\nsha256 {digest}\n".encode()))
        assert any("generation 4 " in each.what for each in inspect(files.root).findings)
        assert 4 in {found.number for found in walk(files.root) if found.problem}
        assert bundle(files) == 4
        assert files.run(bundling.remove_old("2021-01-01T00:00:00Z", NOW, "alpha")) == 0

    def test_days_are_found_in_bundles_each_of_which_is_read_once(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        days = [f"2026-11-{day:02d}" for day in range(23, 31)]
        for number, day in enumerate(days):
            commit(files, 1 + number % 4, f"{day}T12:00:00Z")
        asked = ["2026-11-21", "2026-11-22", *days]
        before = summary.ends_of_days(files.root, asked)
        assert {day: found.number for day, found in before.items()}["2026-11-25"] == 1 + 1 + 2 + 3
        files.run(protocol.prune(3))
        while bundle(files):
            pass
        reads: list[BundleName] = []

        def counted(root: Path, name: BundleName) -> Bundle:
            reads.append(name)
            return read_bundle(root, name)

        monkeypatch.setattr(summary, "read_bundle", counted)
        assert summary.ends_of_days(files.root, asked) == before
        assert sorted(reads) == bundles_in(files.root)

    def test_too_few_wait_for_others(self, files: StateFiles) -> None:
        history(files, 6)
        assert bundle(files, 4) == 0
        assert loose(files) == [1, 2, 3]

    def test_a_damaged_generation_is_kept_as_it_is_and_reported(self, files: StateFiles) -> None:
        history(files)
        path = generation_file(history_of(files.root, 2) / generation_name(2))
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-9])
        before = everything(files)
        assert bundle(files) == 4
        assert "damaged" in {found.number: found.problem for found in walk(files.root)}[2]
        assert everything(files) == before
        assert "generation 2 " in inspect(files.root).findings[0].what

    def test_two_at_once_lose_nothing(self, files: StateFiles) -> None:
        whole = history(files)
        one, other = (bundling.bundle_oldest(NOW, next(TOKENS), 4) for _ in range(2))
        # Both have read everything before either has written anything.
        first, second = until(files, one, PutBundle), until(files, other, PutBundle)
        finish(files, one, first)
        finish(files, other, second)
        assert loose(files) == [5, 6, 7, 8, 9]
        assert [read_number(files.root, number) is not None for number in range(1, 13)] == [
            True
        ] * 12
        assert bundles_in(files.root)[0].last == 4
        assert whole[4] == files.run(reading(4))

    def test_what_was_left_by_one_that_was_killed_goes(self, files: StateFiles) -> None:
        history(files)
        killed = bundling.bundle_oldest(NOW, next(TOKENS), 4)
        operation = until(files, killed, SyncBundle)
        files.perform(operation)
        killed.close()
        assert (loose(files), len(bundles_in(files.root))) == ([*range(1, 10)], 1)
        assert bundle(files) == 4
        assert (loose(files), len(bundles_in(files.root))) == ([*range(5, 10)], 1)

    def test_a_bundle_that_cannot_be_read_back_takes_nothing_away(self, files: StateFiles) -> None:
        history(files)
        steps = bundling.bundle_oldest(NOW, next(TOKENS), 4)
        operation: Any = until(files, steps, SyncBundle)
        torn = files.perform(operation)[:-20]
        with pytest.raises(DatabaseDamagedError, match="cannot be read back"):
            steps.send(torn)
        assert loose(files) == [*range(1, 10)]

    def test_a_full_nas_takes_nothing_away(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history(files)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(NasError, match="No space"):
            bundle(files)
        monkeypatch.undo()
        assert loose(files) == [*range(1, 10)]
        assert os.listdir(files.root / "tmp") == []
        assert bundle(files) == 4

    def test_what_a_late_writer_put_there_counts_for_nothing(self, files: StateFiles) -> None:
        whole = history(files)
        bundle(files)
        late = generation_file(history_of(files.root, 3) / generation_name(3))
        if files.primitive == "directory":
            late = history_of(files.root, 3) / generation_name(3) / "snapshot"
            late.parent.mkdir()
        late.write_bytes(whole[9])
        assert not [found for found in walk(files.root) if found.problem]
        assert bundle(files) == 1
        assert loose(files) == [*range(5, 10)]
        assert os.listdir(files.root / "tmp")[0].startswith("stray.")
        assert files.run(reading(3)) == whole[3]

    def test_a_damaged_bundle_costs_what_is_in_it(self, files: StateFiles) -> None:
        history(files)
        bundle(files)
        path = only_bundle(files)
        path.write_bytes(path.read_bytes()[:-30])
        problems = [found for found in walk(files.root) if found.problem]
        assert [found.number for found in problems] == [4]
        assert "commits 1 to 4 cannot be read" in problems[0].problem
        assert [found.number for found in walk(files.root)] == [*range(12, 4, -1), 4]
        findings = inspect(files.root).findings
        assert "commits 1 to 4" in findings[0].what
        assert not [finding for finding in findings if "missing" in finding.what]
        with pytest.raises(DatabaseDamagedError):
            read_number(files.root, 2)
        assert bundle(files) == 4  # the others go on

    @pytest.mark.parametrize("kind", ["pipe", "directory", "link"])
    def test_what_lies_in_the_place_of_a_bundle_costs_what_was_in_it(
        self, files: StateFiles, kind: str
    ) -> None:
        history(files)
        bundle(files)
        path = only_bundle(files)
        path.unlink()
        {"pipe": os.mkfifo, "directory": os.mkdir, "link": lambda at: os.symlink("/dev/zero", at)}[
            kind
        ](path)
        assert [found.number for found in walk(files.root) if not found.problem] == [
            *range(12, 4, -1)
        ]
        assert "commits 1 to 4" in inspect(files.root).findings[0].what

    def test_a_file_is_worth_more_than_a_damaged_bundle(self, files: StateFiles) -> None:
        history(files)
        steps = bundling.bundle_oldest(NOW, next(TOKENS), 4)
        files.perform(until(files, steps, SyncBundle))
        path = only_bundle(files)
        path.write_bytes(b"torn")
        assert bundle(files) == 4
        assert [found.number for found in walk(files.root) if not found.problem] == [
            *range(12, 0, -1)
        ]


def put_in_place(path: Path, kind: str) -> None:
    """What can be read by nobody, with the name of a generation."""
    (path / "snapshot").unlink(missing_ok=True) if path.is_dir() else path.unlink()
    if path.is_dir():
        path.rmdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "long":
        with path.open("wb") as file:
            file.truncate(LIMIT + 1)
    else:
        path.mkdir()


#: Longer is no generation, in these tests.
LIMIT = 1 << 20


class TestUnreadable:
    """One old generation that cannot be read costs only itself."""

    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history_files, "LIMIT_BYTES", LIMIT)

    @pytest.mark.broad
    @pytest.mark.parametrize(
        ("kind", "number"),
        [("pipe", 1), ("link", 2), ("directory", 1), ("directory", 4), ("long", 2)],
    )
    def test_the_others_are_bundled_and_it_is_kept_aside(
        self, files: StateFiles, kind: str, number: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        commit(files, 11)
        whole = [b"", *(raw(files, each) for each in range(1, 13))]
        put_in_place(files.root / "gen" / generation_name(number), kind)
        assert any(f"generation {number} " in found.what for found in inspect(files.root).findings)
        files.run(protocol.prune(3))
        while bundle(files):
            pass
        (aside,) = (files.root / "damaged").iterdir()
        assert aside.name.startswith(f"{generation_name(number)}.unreadable-")
        assert len(loose(files)) < 4
        for each in set(range(1, 13)) - {number}:
            assert generations.read_bytes(files.root, each) == whole[each]
        (said,) = [
            finding for finding in inspect(files.root).findings if "vmtool" not in finding.what
        ]
        assert said.what == f"1 generation could not be read and was set aside: {number}"
        assert said.harmless
        assert said in inspect(files.root, history=False).findings, "doctor says so, too"
        assert f"generation {number} cannot be read" in caplog.text
        problems = [found.number for found in walk(files.root) if found.problem]
        assert problems == ([number] if number > 1 else []), "the log begins with the oldest"

    def test_what_cannot_be_read_at_the_first_try_is_no_such_thing(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history(files)
        failing(monkeypatch, 2, [errno.EIO])
        assert bundle(files) == 4
        assert not (files.root / "damaged").exists()

    def test_a_disk_that_refuses_one_of_them_costs_that_one(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history(files)
        failing(monkeypatch, 2, [errno.EIO] * 99)
        assert bundle(files) == 4
        assert bundle(files) == 4
        assert loose(files) == [9]
        assert len([*(files.root / "damaged").iterdir()]) == 1

    def test_one_that_another_user_may_read_stays_where_it_is(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history(files)
        failing(monkeypatch, 2, [errno.EACCES] * 99)
        assert bundle(files) == 3
        assert bundle(files) == 3
        assert loose(files) == [2, 8, 9]
        assert not (files.root / "damaged").exists()

    def test_where_none_can_be_read_nothing_is_touched(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history(files)
        failing(monkeypatch, None, [errno.EIO] * 99)
        with pytest.raises(DatabaseDamagedError, match="none of the 4 oldest"):
            bundle(files)
        assert loose(files) == [*range(1, 10)]
        assert not (files.root / "damaged").exists()

    @pytest.mark.broad
    def test_a_nas_that_is_away_makes_nothing_unreadable(
        self, files: StateFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history(files)
        failing(monkeypatch, 2, [errno.EHOSTDOWN] * 99)
        with pytest.raises(NasError):
            bundle(files)
        assert loose(files) == [*range(1, 10)]


def failing(monkeypatch: pytest.MonkeyPatch, number: int | None, errors: list[int]) -> None:
    """Reading this generation (None: any) out of its file fails so, one time after the other."""
    read = history_files.read_file

    def fail(path: Path) -> bytes:
        if errors and (number is None or generation_name(number) in str(path)):
            raise OSError(code := errors.pop(0), os.strerror(code), str(path))
        return read(path)

    monkeypatch.setattr(history_files, "read_file", fail)


class TestRemoving:
    @pytest.mark.broad
    def test_an_anchor_says_where_the_chain_begins(self, files: StateFiles) -> None:
        whole = history(files)
        bundle(files)
        bundle(files)
        assert files.run(bundling.remove_old(WHEN, NOW, "alpha")) == 0
        assert newest_anchor(files.root) is None
        commit(files, 1, LATER)
        assert files.run(bundling.remove_old(LATER, NOW, "alpha")) == 2
        anchor = newest_anchor(files.root)
        assert anchor is not None
        assert (anchor.number, anchor.when, anchor.node) == (8, NOW, "alpha")
        assert anchor.checksum == whole[8][-65:-1].decode()
        found = inspect(files.root)
        assert (found.oldest, found.anchor) == (9, anchor)
        assert not [finding for finding in found.findings if "vmtool" not in finding.what]
        assert files.history.checksum(3) == ""

    def test_a_chain_that_does_not_go_on_from_the_anchor_is_noticed(
        self, files: StateFiles
    ) -> None:
        history(files)
        bundle(files)
        files.run(bundling.remove_old(LATER, NOW, "alpha"))
        path = next((files.root / "history").glob("anchor-*"))
        text = path.read_text().replace('"checksum": "', '"checksum": "x')
        path.write_text(text)
        assert (
            "does not follow from the one that was removed" in inspect(files.root).findings[0].what
        )
        generation = history_of(files.root, 5) / generation_name(5)
        generation.rename(files.root / "gone")
        assert inspect(files.root).findings[0].what == "generations 5 to 5 are missing"

    def test_a_clock_that_ran_ahead_keeps_nothing_for_ever(self, files: StateFiles) -> None:
        commit(files, 2)
        commit(files, 1, "2099-01-01T00:00:00Z")
        commit(files, 6)
        files.run(protocol.prune(3))
        bundle(files)
        assert bundles_in(files.root)[0].committed == "20261122T203800Z"

    def test_a_host_whose_clock_is_behind_removes_nothing_too_early(
        self, files: StateFiles
    ) -> None:
        history(files)
        files.run(bundling.bundle_oldest("1970-01-01T00:00:00Z", next(TOKENS), 4))
        assert bundles_in(files.root)[0].committed == "20261122T203800Z"


def test_old_commits_are_passed_over_unread(files: StateFiles) -> None:
    history(files)
    bundle(files)
    commit(files, 2, "2026-11-30T00:00:00Z")
    only_bundle(files).write_bytes(b"torn")
    found = list(walk(files.root, since=datetime(2026, 11, 29, tzinfo=UTC)))
    assert [each.number for each in found] == [14, 13]
    assert all(isinstance(each, Committed) for each in found)
    assert len(kept(files.root)) == 2


def test_one_host_with_a_wrong_clock_hides_nothing_of_the_others(files: StateFiles) -> None:
    commit(files, 2, "2026-11-30T00:00:00Z")
    commit(files, 3, "2020-01-01T00:00:00Z")
    commit(files, 2, "2026-11-30T01:00:00Z")
    found = [each.number for each in walk(files.root, since=datetime(2026, 11, 29, tzinfo=UTC))]
    assert found == [8, 7, 3, 2]


def until(files: StateFiles, steps: Any, kind: type) -> Any:
    """The first operation of that kind, not yet performed."""
    operation = next(steps)
    while not isinstance(operation, kind):
        operation = steps.send(files.perform(operation))
    return operation


def finish(files: StateFiles, steps: Any, operation: Any) -> None:
    try:
        while True:
            operation = steps.send(files.perform(operation))
    except StopIteration:
        return


def reading(number: int) -> Any:
    """The bytes of a generation that has no file of its own."""

    def steps() -> Any:
        assert (yield ReadHistoric(number)) is None
        names = yield bundling.ListBundles()
        for name in names:
            found = bundling.unpack(name, (yield SyncBundle(name)))
            if number in found:
                return found.generation(number)
        return None

    return steps()


def full(_: int) -> None:
    raise OSError(28, "No space left on device")
