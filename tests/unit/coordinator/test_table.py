"""Tables on terminals of any width: what people may want to copy is never cut."""

import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.table import Table, fitted, width, words
from tests.support.copies import put_copy
from tests.support.terminal import read_at_terminal
from tests.unit.coordinator.conftest import Operator, copy

STAMP = "20261122T203800Z-17"
COMMAND = "`vmbackup-admin remove 'a very long name' 20261122T203800Z-17`"
HEADERS = ("VM", "STATUS", "HOST", "LAST COPY", "SIZE", "FAILURES", "NOTES")


def row(name: str, notes: str = "") -> list[str]:
    return [name, "BACKUP_NECESSARY", "host-a", "47 min", "12.5 GiB", "2", notes]


def test_at_80_columns_a_long_note_is_folded_between_words() -> None:
    table = Table(HEADERS, [row("web01", "it failed because the disk is gone and more of that")])
    lines = list(fitted(table, 80))
    assert all(width(line) <= 80 for line in lines)
    assert "BACKUP_NECESSARY" in lines[1]
    assert len(lines) > 2


def test_a_command_stays_on_one_line() -> None:
    table = Table(HEADERS, [row("web01", f"order unknown; {COMMAND} ends it")])
    assert any(COMMAND in line for line in fitted(table, 80))
    assert any(COMMAND in line for line in fitted(table, 40))


def test_a_name_that_is_too_long_has_a_line_of_its_own_and_the_rest_stays_a_table() -> None:
    assert list(fitted(Table(HEADERS, [row("web01"), row("x" * 70, "short"), row("db")]), 80)) == [
        "VM     STATUS            HOST    LAST COPY  SIZE      FAILURES  NOTES",
        "web01  BACKUP_NECESSARY  host-a  47 min     12.5 GiB  2",
        "x" * 70,
        "       BACKUP_NECESSARY  host-a  47 min     12.5 GiB  2         short",
        "db     BACKUP_NECESSARY  host-a  47 min     12.5 GiB  2",
    ]


def test_a_cell_of_blanks_is_no_fault() -> None:
    assert len(list(fitted(Table(HEADERS, [row(" " * 90, " " * 90), row("web01")]), 80))) >= 3


def test_a_cell_that_is_too_long_stands_below_its_row_with_its_name() -> None:
    headers = ("VM", "COPY", "STATE", "AGE", "SIZE", "HOST", "ENGINE", "VERIFIED", "REHEARSED")
    rest = ["47 min", "12.5 GiB", "host-a", "parallel", "3 d"]
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    found = f"verification found: a digest of its disk is wrong, {digest}"
    rows = [["web01", STAMP, state, *rest, ""] for state in ("good", found)]
    rows.append(["web01", STAMP, "good", *rest, "good, booted, 3 d ago"])
    assert list(fitted(Table(headers, rows), 80)) == [
        "VM     COPY                 STATE  AGE     SIZE      HOST    ENGINE    VERIFIED",
        "web01  20261122T203800Z-17  good   47 min  12.5 GiB  host-a  parallel  3 d",
        "web01  20261122T203800Z-17         47 min  12.5 GiB  host-a  parallel  3 d",
        "    STATE: verification found: a digest of its disk is wrong,",
        f"    {digest}",
        "web01  20261122T203800Z-17  good   47 min  12.5 GiB  host-a  parallel  3 d",
        "    REHEARSED: good, booted, 3 d ago",
    ]


def test_sentences_are_not_folded_into_a_narrow_column() -> None:
    long = "order of 2 copies unknown: number, time and order of creation disagree"
    lines = list(fitted(Table(HEADERS, [row("web01", long)]), 80))
    assert lines[0].endswith("FAILURES")
    assert lines[2:] == [f"    {long}"]


def test_a_terminal_that_is_too_narrow_for_the_headers_has_every_value_by_its_name() -> None:
    lines = list(fitted(Table(HEADERS, [row("web01", "short note of it")]), 18))
    assert {"    SIZE: 12.5 GiB", "    FAILURES: 2"} <= {line.rstrip() for line in lines}
    assert all(width(line) <= 20 for line in lines)  # the longest state and the indent


def test_columns_that_say_nothing_go() -> None:
    table = Table(("VM", "NOTES"), [["web01", ""]])
    assert list(fitted(table, 80)) == ["VM", "web01"]


def test_at_200_columns_each_row_is_a_line() -> None:
    table = Table(HEADERS, [row(f"web{number:02}", "short note") for number in range(30)])
    assert len(list(fitted(table, 200))) == 31


@pytest.mark.broad
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                ["", "a", "日本", "BACKUP_NECESSARY", STAMP, f"see {COMMAND}", "b " * 40]
            ),
            min_size=4,
            max_size=4,
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(10, 220),
)
def test_no_word_is_ever_lost_or_cut(rows: list[list[str]], columns: int) -> None:
    lines = list(fitted(Table(("ONE", "TWO", "THREE", "FOUR"), rows), columns))
    text = "\n".join(lines)
    for cell in (cell for each in rows for cell in each):
        for word in words(cell):
            assert word in text
    longest = max(
        (width(word) for each in rows for cell in each for word in words(cell)), default=0
    )
    assert all(width(line) <= columns for line in lines) or longest + 12 > columns // 4


def on_a_terminal(operator: Operator, columns: int, *arguments: str) -> str:
    """What a person reads there."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "VMBACKUP_CONFIG": str(operator.config)}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "coordinator.admin", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    said = b""
    try:
        while piece := os.read(leader, 1 << 16):
            said += piece
    except OSError:  # the terminal has no writer any more
        pass
    os.close(leader)
    assert process.wait() == 0, said.decode()
    return said.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("columns", "command"), [(80, "log"), (200, "log"), (80, "report"), (80, "space")]
)
def test_what_happened_to_thirty_vms_with_long_names(
    site_with_database: Operator, columns: int, command: str
) -> None:
    operator = site_with_database
    names = [f"production-database-server-{number:02}" for number in range(30)]
    operator.add_vms(*names)
    for name in names:
        put_copy(operator.nas / name, STAMP)
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", on_a_terminal(operator, columns, command))
    lines = plain[plain.rindex("\r") + 1 :].splitlines()  # without what was shown meanwhile
    assert [line for line in lines if width(line) > columns] == []
    for name in names:
        assert name in plain


def test_status_is_shown_again_and_again_until_control_c(site_with_database: Operator) -> None:
    site_with_database.add_vms("web01")
    environment = {**os.environ, "VMBACKUP_CONFIG": str(site_with_database.config)}
    program = [sys.executable, "-P", "-m", "coordinator.admin", "status", "--watch", "1"]

    stopped: list[bool] = []

    def stop(process: "subprocess.Popen[bytes]", said: str) -> None:
        if said.count("1 VM: 1 NEW") == 2 and not stopped:
            stopped.append(True)
            process.send_signal(signal.SIGINT)

    code, said = read_at_terminal(program, 80, environment, stop)
    assert code == 130, said
    assert said.count("again every 1 s, until ^C") >= 2
    refused = site_with_database.admin("status", "--watch", "--json")
    assert (refused.exit_code, "leave out --json" in refused.stderr) == (2, True)


@pytest.mark.parametrize("columns", [80, 200])
def test_thirty_vms_with_long_names(site_with_database: Operator, columns: int) -> None:
    operator = site_with_database
    names = [f"production-database-server-{number:02}" for number in range(30)]
    operator.add_vms(*names)
    for name in names[::3]:
        operator.set(name, last_copy=copy(STAMP), last_error="VBoxManage said that it is busy")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(operator, columns, "status"))
    shown = plain[plain.index("VM ") :].splitlines()
    assert all(width(line) <= columns for line in shown)
    for name in names:
        assert name in plain


def test_states_have_colours_unless_nobody_wants_them(
    site_with_database: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_with_database.add_vms("web01")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[33mNEW" in on_a_terminal(site_with_database, 80, "status")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33m" not in on_a_terminal(site_with_database, 80, "status")
