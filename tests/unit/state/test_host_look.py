"""The file by which a host shows that it looks. What is not sure is unknown."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.state.sessions import host_look_writing
from shared.state.sessions.host_look import (
    BREAKS_SECONDS,
    PREFIX,
    SILENT_AFTER,
    UNKNOWN_INTERVAL_SECONDS,
    HostLook,
    WorkerEnd,
    read_look,
)
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from tests.unit.state.builders import HERE, StillClock

TICK = 600.0
NAME = PREFIX + HERE.node


class Ticks:
    """A host that looks, and a NAS whose clock is an hour ahead of the host's."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock, self.nas = directory, StillClock(), 1_800_000_000.0

    def look(
        self, *unchanged: str, known: tuple[str, ...] = ("a", "b"), after: float = TICK
    ) -> HostLook:
        self.nas += after
        seen = VmsSeen(known, unchanged, unchanged)
        write_look(self.directory, HERE, self.clock, seen, {"verify": WorkerEnd(13, "when")})
        os.utime(self.directory / NAME, (self.nas, self.nas))
        return self.read()

    def read(self) -> HostLook:
        look = read_look(self.directory, HERE.node, HERE.machine)
        assert look is not None
        return look


@pytest.fixture
def ticks(tmp_path: Path) -> Ticks:
    return Ticks(tmp_path)


def test_it_says_when_what_was_looked_at_and_how_workers_ended(ticks: Ticks) -> None:
    look = ticks.look("a")
    assert (look.looked, look.vms, look.unchanged) == (
        ticks.nas,
        {"a": ticks.nas},
        {"a": ticks.nas},
    )
    assert look.workers == {"verify": WorkerEnd(13, "when")}
    assert look.interval_seconds == UNKNOWN_INTERVAL_SECONDS, "one look says nothing of the next"


def test_a_vm_that_a_tick_does_not_see_keeps_the_time_of_its_last_look(ticks: Ticks) -> None:
    ticks.look("a", "b")
    first = ticks.nas
    ticks.look("a")
    look = ticks.look("a")
    assert look.vms == {"a": ticks.nas, "b": first}
    assert ticks.look(known=("a",)).vms == {"a": ticks.nas - TICK}, "one that is gone is forgotten"


def test_the_interval_is_the_hosts_own_and_one_long_gap_does_not_change_it(ticks: Ticks) -> None:
    for _ in range(4):
        ticks.look("a")
    assert ticks.look("a").interval_seconds == TICK
    assert ticks.look("a", after=86400).interval_seconds == TICK


def test_two_looks_by_hand_do_not_say_how_often_a_host_looks(ticks: Ticks) -> None:
    ticks.look("a")
    assert ticks.look("a", after=90).interval_seconds == UNKNOWN_INTERVAL_SECONDS
    assert ticks.look("a").interval_seconds == TICK, "the longer gap is that of the schedule"
    assert ticks.look("a").interval_seconds == TICK


def test_a_break_begins_the_series_anew(ticks: Ticks) -> None:
    ticks.look("a")
    first = ticks.nas
    for _ in range(4):
        assert ticks.look("a").since == first
    assert ticks.look("a", after=SILENT_AFTER * TICK + 60).since == ticks.nas
    again = ticks.nas
    assert ticks.look("a").since == again


def test_breaks_are_remembered_for_as_long_as_the_page_looks_back(ticks: Ticks) -> None:
    ticks.look("a")
    first = ticks.nas
    for _ in range(4):
        assert ticks.look("a").breaks == ()
    begun, look = ticks.nas, ticks.look("a", after=86400)
    assert (look.breaks, look.known) == (((begun, ticks.nas),), first)
    ended = ticks.nas
    look = ticks.look("a", after=30)  # by hand
    assert ticks.look("a").breaks == ((begun, ended),)
    for _ in range(4):
        assert ticks.look("a").breaks == ((begun, ended),)
    long = ticks.look("a", after=BREAKS_SECONDS)
    assert (
        ticks.look("a").breaks
        == long.breaks[1:]
        == ((ticks.nas - TICK - BREAKS_SECONDS, long.looked),)
    )
    assert ticks.read().known == first, "there were no others"


def test_of_too_many_breaks_the_newest_are_known(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_look_writing, "BREAKS", 2)
    for _ in range(5):
        ticks.look("a")
    ended = []
    for _ in range(4):
        ticks.look("a", after=SILENT_AFTER * TICK + 60)
        ended.append(ticks.nas)
        for _ in range(6):
            look = ticks.look("a")
    assert [end for _, end in look.breaks] == ended[2:]
    assert look.known == ended[1]


def test_what_a_program_wrote_that_knows_no_breaks_is_known_since_the_last_one(
    ticks: Ticks,
) -> None:
    ticks.look("a")
    look = ticks.look("a")
    path = ticks.directory / NAME
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["breaks"], document["known"]
    path.write_text(json.dumps(document), encoding="utf-8")
    os.utime(path, (ticks.nas, ticks.nas))
    assert (ticks.read().breaks, ticks.read().known) == ((), look.since)


def test_how_far_the_clocks_are_apart_is_known(ticks: Ticks) -> None:
    ticks.nas = ticks.clock.now().timestamp() + 3600 - TICK
    assert ticks.look("a").nas_is_ahead_seconds == pytest.approx(3600)


def test_a_file_of_another_machine_says_nothing(ticks: Ticks) -> None:
    ticks.look("a")
    assert read_look(ticks.directory, HERE.node, "another machine") is None
    (ticks.directory / NAME).rename(ticks.directory / (PREFIX + "beta"))
    assert read_look(ticks.directory, "beta", HERE.machine) is None


def test_it_is_rewritten_in_place_and_nothing_of_a_longer_one_is_left(ticks: Ticks) -> None:
    ticks.look(*(f"vm{number}" for number in range(50)), known=())
    inode = (ticks.directory / NAME).stat().st_ino
    assert ticks.look("a").vms == {"a": ticks.nas}
    assert (ticks.directory / NAME).stat().st_ino == inode


@pytest.mark.parametrize("planted", ["link", "hard link", "pipe", "directory"])
def test_what_somebody_planted_there_is_neither_read_nor_written_to(
    ticks: Ticks, tmp_path: Path, planted: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    place = tmp_path / NAME
    {
        "link": lambda: place.symlink_to(victim),
        "hard link": lambda: os.link(victim, place),
        "pipe": lambda: os.mkfifo(place),
        "directory": place.mkdir,
    }[planted]()
    with pytest.raises(OSError, match=r"."):
        ticks.look("a")
    assert read_look(tmp_path, HERE.node, HERE.machine) is None
    assert victim.read_text(encoding="utf-8") == "precious"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.broad
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_unknown(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("node")
    (directory / NAME).write_bytes(data)
    assert read_look(directory, HERE.node, HERE.machine) is None


@pytest.mark.broad
@given(
    st.sampled_from(
        ["before", "since", "written", "vms", "unchanged", "workers", "breaks", "known"]
    ),
    json_values,
)
def test_a_wrong_field_is_unknown_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    ticks = Ticks(tmp_path_factory.mktemp("node"))
    ticks.look("a")
    document = json.loads((ticks.directory / NAME).read_bytes())
    (ticks.directory / NAME).write_text(json.dumps({**document, field: value}), encoding="utf-8")
    look = read_look(ticks.directory, HERE.node, HERE.machine)
    if look is not None:
        assert look.interval_seconds >= 60
        assert all(
            time <= look.looked + 300 for time in (*look.vms.values(), *look.unchanged.values())
        )


def test_a_file_of_many_gigabytes_is_unknown_at_once(ticks: Ticks) -> None:
    ticks.look("a")
    with (ticks.directory / NAME).open("r+b") as file:
        file.truncate(40 << 30)
    assert read_look(ticks.directory, HERE.node, HERE.machine) is None


def test_fields_of_later_programs_are_no_hindrance(ticks: Ticks) -> None:
    ticks.look("a")
    document = json.loads((ticks.directory / NAME).read_bytes())
    (ticks.directory / NAME).write_text(json.dumps({**document, "new": [1]}), encoding="utf-8")
    assert ticks.read().vms.keys() == {"a"}


def test_another_node_has_a_file_of_its_own(ticks: Ticks) -> None:
    ticks.look("a")
    beta = replace(HERE, node="beta", machine="machine-beta")
    write_look(ticks.directory, beta, ticks.clock, VmsSeen(["c"], ["c"], []), {})
    assert ticks.read().vms.keys() == {"a"}


@pytest.mark.parametrize("code", [10**400, 256, -129, True, 1.0])
def test_an_exit_code_is_one_of_a_program(ticks: Ticks, code: Any) -> None:
    """Others are made numbers of 64 bits of it."""
    ticks.look("a")
    path = ticks.directory / NAME
    document = json.loads(path.read_text(encoding="utf-8"))
    document["workers"]["verify"]["code"] = code
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_look(ticks.directory, HERE.node, HERE.machine) is None


@pytest.mark.parametrize("number", [-1, 1e12, 1e300, -1e300, 10**400, "1e3"])
@pytest.mark.parametrize(
    "field", ["written", "since", "known", "interval", "before", "vms", "unchanged", "breaks"]
)
def test_a_time_that_is_none_makes_the_file_unknown(
    ticks: Ticks, field: str, number: float
) -> None:
    """One of them ended each teller with a traceback, and was shown with three hundred digits."""
    ticks.look("a")
    path = ticks.directory / NAME
    document = json.loads(path.read_text(encoding="utf-8"))
    values = {"before": [number], "breaks": [[number, 1]]}
    values |= {"vms": {"a": number}, "unchanged": {"a": number}}  # type: ignore[dict-item]
    path.write_text(json.dumps({**document, field: values.get(field, number)}), encoding="utf-8")
    assert read_look(ticks.directory, HERE.node, HERE.machine) is None


def test_a_file_that_is_older_than_all_files_is_unknown(ticks: Ticks) -> None:
    ticks.look("a")
    os.utime(ticks.directory / NAME, (-5, -5))
    assert read_look(ticks.directory, HERE.node, HERE.machine) is None
